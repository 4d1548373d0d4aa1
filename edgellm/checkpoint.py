"""A model file opened: configuration, tensors, vocabulary, chat template and provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import FormatError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from edgellm.config import Config
    from edgellm.gguf import GGUFFile
    from edgellm.tokenizer import TokenizerData


class TensorInfo(Protocol):
    """What a file says of one of its tensors."""

    @property
    def name(self) -> str:
        """GGUF's name (`blk.0.attn_q.weight`), whatever the file calls it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Row-major: (out, in) for a matrix. GGUF lists dimensions the other way round."""

    @property
    def type(self) -> str:
        """ "F32", "BF16", "Q4_K", …"""

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""


class StoredTensor(TensorInfo, Protocol):
    """A tensor in a model file, read only when asked."""

    def float32(self) -> NDArray[np.float32]:
        """The exactly dequantised values, of `shape`."""


@dataclass(frozen=True)
class Provenance:
    """Where a model says it comes from; empty strings where it doesn't."""

    name: str = ""
    licence: str = ""
    source: str = ""
    author: str = ""


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a model's files say besides its weights; a file may hold nothing else."""

    path: str
    tokenizer: TokenizerData | None
    template: str | None
    """Jinja source of the chat template."""
    provenance: Provenance
    sampling: Mapping[str, float] = field(default_factory=dict)
    """Fields of `edgellm.sampling.Sampling` that the file advises."""


@dataclass(frozen=True, kw_only=True)
class ModelFile(Words):
    """A file with a model in it, opened: a checkpoint, or a bundle that was built from one."""

    format: str
    """"gguf", "safetensors" or "edge"."""
    config: Config
    tensors: Mapping[str, TensorInfo]


@dataclass(frozen=True, kw_only=True)
class Checkpoint(ModelFile):
    """A model as it is published, for any machine."""

    tensors: Mapping[str, StoredTensor]


def open(path: str | Path) -> Checkpoint:
    """Open a GGUF file, any part of a split one, or a Hugging Face folder.

    Raises FormatError for a broken file, UnsupportedError for one that edgellm can't run,
    UsageError where there is none.
    """
    from edgellm import layout

    path = Path(path)
    if path.is_dir():
        from edgellm import huggingface

        _refuse_other_folders(path)
        checkpoint = huggingface.read(path)
    else:
        _refuse_other_formats(path)
        checkpoint = _read_gguf(path)
    layout.check(checkpoint.path, checkpoint.config, checkpoint.tensors)
    return checkpoint


def words(path: str | Path) -> Words:
    """What `open` would read but for configuration and weights, which needn't be there; or what a
    bundle has of it, whoever has signed it.

    Raises FormatError, UnsupportedError, UsageError.
    """
    from edgellm import bundle, gguf

    path = Path(path)
    if bundle.is_bundle(path):
        return bundle.open(path, inspect=True)
    if path.is_dir():
        from edgellm import huggingface

        return huggingface.words(path)
    _refuse_other_formats(path)
    return Words(**_gguf_words(path, gguf.read(path)))


def _read_gguf(path: Path) -> Checkpoint:
    from edgellm import gguf
    from edgellm.gguf import families

    file = gguf.read(path)
    return Checkpoint(
        format="gguf",
        config=families.config_from_gguf(file.path, file.metadata, file.tensors),
        tensors=file.tensors,
        **_gguf_words(path, file),
    )


def _gguf_words(path: Path, file: GGUFFile) -> dict[str, Any]:
    from edgellm import advice, tokenizer

    template = file.metadata.get("tokenizer.chat_template")
    if not isinstance(template, str | None):
        raise FormatError(path, "tokenizer.chat_template", template, "it must be a string")
    return {
        "path": str(path),
        "tokenizer": tokenizer.tokenizer_data_from_gguf(file.metadata, path),
        "template": template or None,
        "provenance": Provenance(
            name=_text(file.metadata, "general.name", "general.basename"),
            licence=_text(file.metadata, "general.license", "general.license.name"),
            source=_text(file.metadata, *_SOURCES),
            author=_text(file.metadata, "general.author", "general.organization"),
        ),
        "sampling": advice.from_gguf(file.path, file.metadata),
    }


_SOURCES = (
    "general.source.url",
    "general.source.repo_url",
    "general.source.huggingface.repository",
    "general.url",
    "general.repo_url",
)


def _text(metadata: Mapping[str, object], *keys: str) -> str:
    """The first of the keys that holds a string, else ""."""
    return next((value for key in keys if isinstance(value := metadata.get(key), str)), "")


_PICKLES = {".bin", ".pt", ".pth", ".ckpt"}
_HEADS = {
    b"lmgg": ("a ggml file", "it is older than GGUF, convert it"),
    b"fmgg": ("a ggmf file", "it is older than GGUF, convert it"),
    b"tjgg": ("a ggjt file", "it is older than GGUF, convert it"),
    b"PK\3\4": ("a zip archive", "GGUF files and folders with safetensors are read"),
    b"\x80\2": ("a pickle", "it may run code, use GGUF or safetensors"),
}


def _refuse_other_formats(path: Path) -> None:
    """Say what a file that isn't GGUF is, as far as its name and first bytes tell."""
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    if not path.is_file():
        raise UsageError(f"{path}: neither a file nor a folder")
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    if not head:
        raise FormatError(path, "size", 0, "the file is empty")
    for mark, (content, remedy) in _HEADS.items():
        if head.startswith(mark):
            raise UnsupportedError(path, "content", content, remedy)
    if head == b"GGUF":
        return
    if path.suffix == ".safetensors":
        remedy = "name its folder, which must have config.json too"
        raise UnsupportedError(path, "content", "weights alone", remedy)
    if path.suffix in _PICKLES:
        remedy = "a pickle may run code, use GGUF or safetensors"
        raise UnsupportedError(path, "file type", path.suffix, remedy)


def _refuse_other_folders(folder: Path) -> None:
    """Say why a folder without config.json or safetensors can't be opened, and what would help."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}") from error
    ggufs = [name for name in names if name.endswith(".gguf")]
    if "config.json" not in names:
        remedy = f"name the file {ggufs[0]} in it" if ggufs else "a model folder has that file"
        raise FormatError(folder, "config.json", "missing", remedy)
    if not any(name.endswith(".safetensors") for name in names):
        pickles = [name for name in names if Path(name).suffix in _PICKLES]
        if pickles:
            remedy = "a pickle may run code, use model.safetensors"
            raise UnsupportedError(folder, "weights", pickles[0], remedy)
        remedy = f"name the file {ggufs[0]} in it" if ggufs else "a model folder has that file"
        raise FormatError(folder, "model.safetensors", "missing", remedy)
