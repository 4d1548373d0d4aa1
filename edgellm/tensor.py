"""A tensor that stays in its memory-mapped file until its values are asked for."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

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
