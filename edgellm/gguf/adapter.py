"""Adapters as GGUF files, by the conventions of llama.cpp's convert_lora_to_gguf.py.

general.type "adapter", adapter.type "lora", adapter.lora.alpha; for each matrix the tensors
`<name>.lora_a` (r, in) and `<name>.lora_b` (out, r), the product scaled by alpha / r, or not at all
where alpha is 0. Queries and keys have their rows as in the base's own GGUF file.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from edgellm.adapter import About, Adapter, LowRank, base_name, checked, reordered
from edgellm.checkpoint import ModelFile
from edgellm.errors import FormatError, UnsupportedError
from edgellm.gguf import file as files
from edgellm.gguf.families import FAMILIES
from edgellm.keys import Keys

SUFFIXES = (".lora_a", ".lora_b")
TYPES = ("F32", "F16", "BF16", "Q8_0")
REFUSED = ("adapter.alora.invocation_tokens",)
SHA256 = "edgellm.base.sha256"


def about(path: Path) -> About | None:
    """See `edgellm.adapter.about`."""
    with contextlib.suppress(OSError), path.open("rb") as opened:
        if opened.read(len(files.MAGIC)) != files.MAGIC:
            return None
    file = files.read(path)
    keys = Keys(file.path, file.metadata)
    if keys.word("general.type", "") != "adapter":
        return None
    first = [tensor for name, tensor in file.tensors.items() if name.endswith(SUFFIXES[0])]
    return About(
        **_said(keys, path),
        rank=max((tensor.shape[0] for tensor in first if tensor.shape), default=0),
        matrices=len(first),
        nbytes=sum(tensor.nbytes for tensor in file.tensors.values()),
    )


def _said(keys: Keys, path: Path) -> dict[str, Any]:
    return {
        "name": path.stem,
        "base_sha256": keys.word(SHA256, ""),
        "base_name": keys.word("general.base_model.0.name", ""),
        "licence": keys.word("general.license", ""),
        "origin": keys.word("general.description", ""),
    }


def read(path: Path, base: ModelFile) -> Adapter:
    """See `edgellm.adapter.read`; which base the file is bound to isn't checked here."""
    file = files.read(path)
    keys = Keys(file.path, file.metadata)
    for key, wanted in (("general.type", "adapter"), ("adapter.type", "lora")):
        if keys.word(key, "") != wanted:
            raise UnsupportedError(path, key, file.metadata.get(key), f"{wanted!r} is needed")
    architecture, style = keys.word("general.architecture", ""), _style(base)
    if architecture != base.config.architecture:
        allowed = f"{base.path} is of {base.config.architecture!r}"
        raise UnsupportedError(path, "general.architecture", architecture, allowed)
    for key in REFUSED:
        if key in file.metadata:
            raise UnsupportedError(path, key, file.metadata[key], "that kind of adapter isn't run")
    alpha = keys.number("adapter.lora.alpha", 0.0, -1e6, 1e6)
    for name, tensor in file.tensors.items():
        if not name.endswith(SUFFIXES):
            raise UnsupportedError(path, "tensor", name, "an adapter's end with .lora_a or .lora_b")
        if tensor.type not in TYPES:
            allowed = f"readable are {', '.join(TYPES)}"
            raise UnsupportedError(path, f"type of {name}", tensor.type, allowed)
    matrices = {}
    for name in dict.fromkeys(tensor[: -len(SUFFIXES[0])] for tensor in file.tensors):
        for suffix in SUFFIXES:
            if name + suffix not in file.tensors:
                raise FormatError(path, f"tensor {name}{suffix}", None, "both A and B are needed")
        a, b = (file.tensors[name + suffix].float32() for suffix in SUFFIXES)
        checked(path, base, name, a, b)
        b = reordered(b, name, base, style, base.config.rope_style)
        matrices[name] = LowRank(a, b, alpha / a.shape[0] if alpha else 1.0)
    if not matrices:
        raise FormatError(path, "number of tensors", 0, "an adapter has some")
    return Adapter(matrices=matrices, **_said(keys, path))


def write(path: Path, adapter: Adapter, base: ModelFile) -> None:
    """See `edgellm.adapter.write_gguf`.

    The format has one alpha for all matrices: B of one with another scale is multiplied.
    """
    style, name = _style(base), adapter.base_name or base_name(base)
    alphas = Counter(matrix.scale * matrix.rank for matrix in adapter.matrices.values())
    alpha = float(np.float32(alphas.most_common(1)[0][0])) or 1.0
    metadata: dict[str, object] = {
        "general.architecture": base.config.architecture,
        "general.type": "adapter",
        "general.name": adapter.name,
        "general.base_model.count": 1,
        "general.base_model.0.name": name,
        "general.license": adapter.licence,
        "general.description": adapter.origin,
        "adapter.type": "lora",
        "adapter.lora.alpha": alpha,
        SHA256: adapter.base_sha256,
    }
    tensors = {}
    for name, matrix in adapter.matrices.items():
        factor = np.float32(matrix.scale * matrix.rank / alpha)
        b = reordered(matrix.b, name, base, base.config.rope_style, style)
        tensors[f"{name}.lora_a"] = np.ascontiguousarray(matrix.a, np.float32)
        tensors[f"{name}.lora_b"] = np.ascontiguousarray(b if factor == 1 else b * factor)
    files.write(path, {key: value for key, value in metadata.items() if value != ""}, tensors)


def _style(base: ModelFile) -> str:
    architecture = base.config.architecture
    if architecture not in FAMILIES:
        allowed = f"supported: {', '.join(FAMILIES)}"
        raise UnsupportedError(base.path, "architecture", architecture, allowed)
    return FAMILIES[architecture].rope_style
