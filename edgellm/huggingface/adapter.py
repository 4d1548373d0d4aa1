"""Adapters as PEFT saves them: adapter_config.json beside adapter_model.safetensors."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgellm import adapter as adapters
from edgellm import atomic_file, json_file, safetensors
from edgellm.adapter import About, Adapter, LowRank
from edgellm.checkpoint import ModelFile
from edgellm.errors import FormatError, UnsupportedError
from edgellm.huggingface.families import FAMILIES
from edgellm.huggingface.names import NAMES
from edgellm.huggingface.tensors import FLOATS, group, ungroup
from edgellm.keys import Keys, is_empty

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_CONFIG = 1 << 20
PREFIX = "base_model.model."
HEAD = "lm_head"
GATE = "ffn_gate"
PARTS = (".lora_A.weight", ".lora_B.weight")
NOTES = {
    "base_sha256": "edgellm.base.sha256",
    "base_name": "edgellm.base.name",
    "licence": "license",
    "origin": "edgellm.origin",
}
"""What `Adapter` calls the texts in the header of the safetensors file."""

IRRELEVANT = re.compile(
    r"auto_mapping|base_model_name_or_path|revision|task_type|inference_mode|lora_dropout|peft_version"
    r"|fan_in_fan_out|target_modules|exclude_modules|layers_to_transform|layers_pattern"
    r"|rank_pattern|r|runtime_config|qalora_group_size|ensure_weight_tying|(loftq|eva|megatron)_config"
    r"|megatron_core"
)
"""Keys that say how to train, or what the tensors' names and shapes say as well."""
KEPT = (True, False, None, "gaussian", "orthogonal", "eva")
"""Ways to begin (`init_lora_weights`) that leave the base's weights as they are."""
OTHER_NAMES = {"bitnet-b1.58": "bitnet", "granitehybrid": "granitemoehybrid"}
"""What transformers calls architectures that have another name in GGUF."""


def about(folder: Path) -> About | None:
    """See `edgellm.adapter.about`."""
    if not (folder / CONFIG).is_file():
        return None
    keys = _config(folder)
    stored, notes = safetensors.read_with_notes(folder / WEIGHTS)
    first = [tensor for name, tensor in stored.items() if name.endswith(PARTS[0])]
    return About(
        **_said(keys, notes, folder),
        rank=max((tensor.shape[0] for tensor in first if tensor.shape), default=0),
        matrices=len(first),
        nbytes=sum(tensor.nbytes for tensor in stored.values()),
    )


def _said(keys: Keys, notes: Mapping[str, str], folder: Path) -> dict[str, Any]:
    said = {field: notes.get(key, "") for field, key in NOTES.items()}
    said["base_name"] = said["base_name"] or keys.word("base_model_name_or_path", "")
    return {"name": folder.resolve().name, **said}


def read(folder: Path, base: ModelFile) -> Adapter:
    """See `edgellm.adapter.read`; which base the file is bound to isn't checked here."""
    path, keys = folder / WEIGHTS, _config(folder)
    if not path.is_file():
        others = sorted(file.name for file in folder.glob("adapter_model.*"))
        if others:
            remedy = f"a pickle may run code; have PEFT save it as {WEIGHTS}"
            raise UnsupportedError(folder, "weights", others[0], remedy)
        raise FormatError(folder, WEIGHTS, "missing", "an adapter's folder has it")
    stored, notes = safetensors.read_with_notes(path)
    modules: dict[str, str] = {}
    for kind in _model_types(base):
        modules = {**_modules(kind, base), **modules}
    found: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name, tensor in stored.items():
        part = next((part for part in PARTS if name.endswith(part)), "")
        module = name.removeprefix(PREFIX).removesuffix(part)
        if not part or module not in modules:
            allowed = f"{base.path} has no matrix of that name that an adapter may change"
            raise UnsupportedError(path, "tensor", name, allowed)
        if tensor.type not in FLOATS:
            allowed = f"supported are {', '.join(FLOATS)}"
            raise UnsupportedError(path, f"type of {name}", tensor.type, allowed)
        found.setdefault(module, {})[part] = tensor.float32()
    if not found:
        raise FormatError(path, "number of tensors", 0, "an adapter has some")
    scales, kind = _Scales(keys), _model_types(base)[0]
    matrices = {}
    for module, pair in found.items():
        if len(pair) < 2:
            raise FormatError(path, f"tensors of {module}", list(pair), "both A and B are needed")
        (a, b), name = (pair[part] for part in PARTS), modules[module]
        adapters.checked(path, base, name, a, b)
        b = adapters.reordered(b, name, base, FAMILIES[kind].rope_style, base.config.rope_style)
        if _is_grouped(kind, name):
            b = ungroup(base.config.layers[0].kv_heads, base.config.head_dim)(b)
        matrices[name] = LowRank(a, b, scales.of(module, a.shape[0]))
    return Adapter(matrices=matrices, **_said(keys, notes, folder))


def write(folder: Path, adapter: Adapter, base: ModelFile) -> None:
    """See `edgellm.adapter.write_peft`."""
    targets = set(adapters.targets(base))
    # Families that share an architecture differ in whether gate and up are one matrix.
    gated = any(GATE in name for name in targets)
    fitting = (
        (kind, modules)
        for kind in _model_types(base)
        if targets <= set((modules := _modules(kind, base)).values())
        and gated == (GATE in NAMES[kind].block.values())
    )
    kind, modules = next(fitting, ("", {}))
    if not kind:
        allowed = "no such model of transformers has these matrices; write GGUF"
        raise UnsupportedError(base.path, "architecture", base.config.architecture, allowed)
    tensors: dict[str, NDArray[np.float32]] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    by_weight = {name: module for module, name in modules.items()}  # the newest name
    for name, module in by_weight.items():
        matrix = adapter.matrices.get(name)
        if matrix is None:
            continue
        b = matrix.b
        if _is_grouped(kind, name):
            b = group(base.config.layers[0].kv_heads, base.config.head_dim)(b)
        style = FAMILIES[kind].rope_style
        b = adapters.reordered(b, name, base, base.config.rope_style, style)
        ranks[module], alphas[module] = matrix.rank, matrix.rank * matrix.scale
        for part, values in zip(PARTS, (matrix.a, b), strict=True):
            tensors[f"{PREFIX}{module}{part}"] = values
    rank, alpha = (Counter(each.values()).most_common(1)[0][0] for each in (ranks, alphas))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base_name or adapters.base_name(base),
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "rank_pattern": {module: own for module, own in ranks.items() if own != rank},
        "alpha_pattern": {module: own for module, own in alphas.items() if own != alpha},
        "target_modules": _targets(list(ranks), list(by_weight.values())),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": kind == "gpt2",
        "use_rslora": False,
        "inference_mode": True,
    }
    notes = {key: getattr(adapter, field) for field, key in NOTES.items()}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file.writing(folder / CONFIG) as file:
        file.write(json.dumps(config, indent=2).encode() + b"\n")
    notes = {"format": "pt", **{key: text for key, text in notes.items() if text}}
    safetensors.write(folder / WEIGHTS, tensors, notes)


def _config(folder: Path) -> Keys:
    """adapter_config.json, with nothing in it that asks for more than A and B."""
    path = folder / CONFIG
    if not path.is_file():
        raise FormatError(folder, CONFIG, "missing", "an adapter's folder has it")
    keys = Keys(str(path), json_file.read(path, MAX_CONFIG))
    for key, wanted in (("peft_type", "LORA"), ("bias", "none")):
        if keys.word(key, wanted) != wanted or (key not in keys.values and key == "peft_type"):
            raise keys.unsupported(key, keys.get(key), f"only {wanted!r} is supported")
    begun = keys.get("init_lora_weights")
    if not isinstance(begun, bool | str | None) or begun not in KEPT:
        allowed = "the base's weights were changed too; have PEFT save it as plain LoRA"
        raise keys.unsupported("init_lora_weights", begun, allowed)
    for key in ("lora_alpha", "use_rslora", "alpha_pattern"):
        keys.get(key)
    keys.refuse_rest(lambda key, value: bool(IRRELEVANT.fullmatch(key)) or is_empty(value))
    return keys


class _Scales:
    """What products are multiplied by."""

    def __init__(self, keys: Keys) -> None:
        self._alpha = keys.number("lora_alpha", 8.0, -1e6, 1e6)
        self._stabilised = keys.flag("use_rslora", False)
        patterns = keys.get("alpha_pattern") or {}
        if not isinstance(patterns, dict):
            raise keys.fail("alpha_pattern", patterns, "an object is needed")
        own = Keys(keys.file, patterns)
        self._patterns = [
            (_pattern(keys, pattern), own.number(pattern, 0.0, -1e6, 1e6)) for pattern in patterns
        ]

    def of(self, module: str, rank: int) -> float:
        found = (alpha for pattern, alpha in self._patterns if pattern.fullmatch(module))
        alpha = next(found, self._alpha)
        return float(alpha / (np.sqrt(rank) if self._stabilised else rank))


def _pattern(keys: Keys, text: str) -> re.Pattern[str]:
    """What PEFT takes for a regular expression that a module's name ends with; here only plain
    names, for expressions from outside may take for ever."""
    if not re.fullmatch(r"\^?[\w.\\]{1,512}", text):
        raise keys.unsupported("alpha_pattern", text, "only modules' names are supported")
    name = re.escape(text.removeprefix("^").replace("\\", ""))
    return re.compile(name if text.startswith("^") else rf"(?:.*\.)?{name}")


def _model_types(base: ModelFile) -> list[str]:
    """What transformers may call a base's family."""
    architecture = base.config.architecture
    if architecture in OTHER_NAMES:
        return [OTHER_NAMES[architecture]]
    found = [kind for kind, family in FAMILIES.items() if family.architecture == architecture]
    if not found:
        allowed = "transformers has no such models; give an adapter in a GGUF file"
        raise UnsupportedError(base.path, "architecture", architecture, allowed)
    return found


def _modules(kind: str, base: ModelFile) -> dict[str, str]:
    """Of the modules that adapters may change, by their names, the weights' names here."""
    names, there = NAMES[kind], adapters.targets(base)
    found = {
        f"{names.prefix}{names.layer}{index}.{module}": f"blk.{index}.{name}.weight"
        for index in range(len(base.config.layers))
        for module, name in names.block.items()
    }
    # transformers has come to call every head so; GPT-NeoX's had another name before.
    found[names.head] = found[HEAD] = "output.weight"
    return {module: name for module, name in found.items() if name in there}


def _is_grouped(kind: str, name: str) -> bool:
    """Whether the rows of a fused matrix stand in groups, head by head."""
    return kind in ("falcon", "gpt_neox") and name.endswith("attn_qkv.weight")


def _targets(adapted: Iterable[str], modules: Iterable[str]) -> list[str]:
    """Names for `target_modules`: the last part of a name where all modules that end so are
    adapted, else the whole."""
    left = {module.rpartition(".")[2] for module in set(modules) - set(adapted)}
    ends = ((module, module.rpartition(".")[2]) for module in adapted)
    return sorted({module if end in left else end for module, end in ends})
