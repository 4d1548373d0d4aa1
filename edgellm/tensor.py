"""Tensors that stay in their memory-mapped file until their values are asked for."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgellm import quant
from edgellm.errors import FormatError, UsageError

LFS = b"version https://git-lfs"
"""What stands in place of a large file in a Git clone that didn't fetch it."""


@dataclass(frozen=True)
class MappedTensor:
    """Implements `edgellm.checkpoint.StoredTensor`; the readers have checked its sizes."""

    name: str
    shape: tuple[int, ...]
    """Row-major."""
    type: str
    """A key of `edgellm.quant.TYPES`."""
    data: memoryview
    """The stored bytes, exactly as many as type and shape say."""

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def float32(self) -> NDArray[np.float32]:
        """The dequantised values, of `shape`; read-only where the file holds them as they are."""
        return quant.dequantise(self.type, self.data, self.shape)

    def release(self) -> None:
        """Let go of the memory that reading has taken: the file's pages, which come back when
        they are read again."""
        file = self.data.obj
        if isinstance(file, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            file.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class RearrangedTensor:
    """A tensor whose values are computed from those of others when they are read."""

    name: str
    shape: tuple[int, ...]
    type: str
    nbytes: int
    sources: tuple[MappedTensor, ...]
    change: Callable[..., NDArray[Any]]
    """From the sources' values to this tensor's."""
    kind: Literal["moved", "ternary", "computed"] = "moved"
    """Whether values only change places, are -1, 0 and 1 times one factor, or anything else."""

    def stored(self) -> NDArray[np.void]:
        """Where values are moved: in their new places, as blocks of one value."""
        kind = quant.TYPES[self.type].dtype
        sources = (
            np.frombuffer(source.data, kind["x"]).reshape(source.shape) for source in self.sources
        )
        moved: NDArray[np.void] = self.change(*sources).reshape(self.shape).view(kind)
        return moved

    def float32(self) -> NDArray[np.float32]:
        values = self.change(*(source.float32() for source in self.sources))
        return np.ascontiguousarray(values, dtype=np.float32).reshape(self.shape)


def map_file(path: Path, least: int) -> mmap.mmap:
    """The memory map of a file of at least `least` bytes.

    Raises FormatError where it is shorter or only a Git LFS pointer, UsageError where it can't be
    opened.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < least:
                raise FormatError(path, "size", size, f"at least {least} bytes are needed")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    if data[: len(LFS)] == LFS:
        raise FormatError(path, "content", "a Git LFS pointer", "fetch the file with git lfs pull")
    return data
