"""Adapters: small matrices that change a model's large ones (LoRA, Hu et al., arXiv:2106.09685).

A matrix W (out, in) with an adapter computes W x + scale * B (A x). Files come in two forms: PEFT's
folders (`edgellm.huggingface.adapter`) and GGUF (`edgellm.gguf.adapter`). Here B's rows stand as
the matrix's in the base: whoever reads or writes a file with another order puts them into theirs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgellm import model_files
from edgellm.errors import FormatError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from edgellm.checkpoint import ModelFile

Floats = NDArray[np.float32]

MAX_RANK = 4096
NOT_ADAPTED = ("norm", "token_embd", "position_embd", "shortconv.conv.")
"""Parts of the names of weights that are no matrices of a product."""


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to one matrix."""

    a: Floats
    """(r, in)"""
    b: Floats
    """(out, r)"""
    scale: float
    """Of the product: alpha / r, or of rank-stabilised adapters alpha / sqrt(r)."""

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])

    def change(self) -> Floats:
        """What is to be added to the matrix, (out, in)."""
        made: Floats = np.matmul(self.b * np.float32(self.scale), self.a, dtype=np.float32)
        return made


@dataclass(frozen=True)
class About:
    """What an adapter's file says of it."""

    name: str
    base_name: str
    base_sha256: str
    licence: str
    origin: str
    rank: int
    """The largest."""
    matrices: int
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter for one base model."""

    name: str
    """As it is chosen by: the file's name without its ending, unless somebody says otherwise."""
    matrices: Mapping[str, LowRank]
    """By the weight that each changes: "blk.0.attn_q.weight"."""
    base_sha256: str = ""
    """Of the model it was made for (`base_sha256` below); "": nobody has said."""
    base_name: str = ""
    licence: str = ""
    origin: str = ""
    """Where it comes from: who made it, of what, with what."""

    @property
    def rank(self) -> int:
        """The largest."""
        return max(matrix.rank for matrix in self.matrices.values())

    def digest(self) -> str:
        """A hash of what it computes."""
        digest = hashlib.sha256()
        for name, matrix in sorted(self.matrices.items()):
            digest.update(f"{name} {matrix.rank} {matrix.scale}\0".encode())
            digest.update(np.ascontiguousarray(matrix.a).data)
            digest.update(np.ascontiguousarray(matrix.b).data)
        return digest.hexdigest()


def base_sha256(base: ModelFile) -> str:
    """What an adapter is bound to: the hash of the model's file, or of those of its folder; of a
    bundle, that of the files it was built from. Reads all of them but where it's a bundle."""
    from edgellm.bundle import Bundle

    if isinstance(base, Bundle):
        return base.source.sha256
    return model_files.sha256(Path(base.path))


def base_name(base: ModelFile) -> str:
    """What the model is called where its adapters name it."""
    return base.provenance.name or Path(base.path).stem


def targets(base: ModelFile) -> dict[str, tuple[int, int]]:
    """The matrices of a model that adapters may change, with their shapes."""
    return {
        name: (tensor.shape[0], tensor.shape[1])
        for name, tensor in base.tensors.items()
        if len(tensor.shape) == 2
        and name.endswith(".weight")
        and not any(part in name for part in NOT_ADAPTED)
    }


def about(path: str | Path) -> About | None:
    """What a file says, whatever its base; None if it is no adapter. Raises as `read`."""
    path = Path(path)
    if path.is_dir():
        from edgellm.huggingface import adapter as peft

        return peft.about(path)
    from edgellm.gguf import adapter as gguf

    return gguf.about(path)


def read(path: str | Path, base: ModelFile, *, any_base: bool = False) -> Adapter:
    """The adapter in a GGUF file, or in a folder that PEFT has saved (or its safetensors file).

    With `any_base` it may be bound to another model than `base`, but must have fitting shapes.
    Raises FormatError for a broken file and for shapes that the base hasn't, UnsupportedError for
    what edgellm doesn't compute and for another architecture, UsageError for another base and where
    there is no such file.
    """
    path = Path(path)
    if path.is_dir() or path.suffix in (".safetensors", ".bin", ".json"):
        from edgellm.huggingface import adapter as peft

        found = peft.read(path if path.is_dir() else path.parent, base)
    else:
        from edgellm.gguf import adapter as gguf

        found = gguf.read(path, base)
    if found.base_sha256 and not any_base and found.base_sha256 != base_sha256(base):
        of = f"{found.base_name!r} " if found.base_name else "another model "
        raise UsageError(
            f"{path}: made for {of}(sha256 {found.base_sha256[:12]}…), not for {base.path}; "
            "give that model, or say --lora-any-base"
        )
    return found


def write_peft(folder: str | Path, adapter: Adapter, base: ModelFile) -> None:
    """Write a folder that PEFT loads: adapter_config.json and adapter_model.safetensors.

    Raises UnsupportedError for a base that transformers doesn't know, OSError.
    """
    from edgellm.huggingface import adapter as peft

    peft.write(Path(folder), adapter, base)


def write_gguf(path: str | Path, adapter: Adapter, base: ModelFile) -> None:
    """Write a GGUF file that llama.cpp loads. Raises UnsupportedError, OSError."""
    from edgellm.gguf import adapter as gguf

    gguf.write(Path(path), adapter, base)


def checked(file: str | Path, base: ModelFile, name: str, a: Floats, b: Floats) -> None:
    """Raise FormatError, naming the tensors of `file`, unless they are an adapter for the weight
    `name` of `base`; UnsupportedError if the base has no such matrix."""
    shapes = targets(base)
    if name not in shapes:
        allowed = f"{base.path} has no matrix of that name that an adapter may change"
        raise UnsupportedError(file, "adapted tensor", name, allowed)
    out, width = shapes[name]
    rank = a.shape[0] if a.ndim else 0
    if not 1 <= rank <= MAX_RANK:
        raise FormatError(file, f"rank of {name}", rank, f"1 to {MAX_RANK} is allowed")
    for part, matrix, shape in (("A", a, (rank, width)), ("B", b, (out, rank))):
        if matrix.shape != shape:
            allowed = f"{shape} is needed for {base.path}"
            raise FormatError(file, f"shape of {part} for {name}", matrix.shape, allowed)
        if not np.isfinite(matrix).all():
            raise FormatError(file, f"{part} for {name}", "nan or inf", "numbers must be finite")


def reordered(b: Floats, name: str, base: ModelFile, held: str, wanted: str) -> Floats:
    """B of queries or keys with the rows of each head from one `rope_style` to the other.

    llama.cpp's converter stores channels that are rotated together side by side ("pair") where
    transformers keeps them half a head apart ("half").
    """
    part = name.split(".")[-2]
    if held == wanted or part not in ("attn_q", "attn_k"):
        return b
    two = (2, base.config.head_dim // 2)
    heads = b.reshape(-1, *(two if held == "half" else two[::-1]), b.shape[1])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(b.shape)
