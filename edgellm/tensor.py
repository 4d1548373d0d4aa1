"""A tensor that stays in its memory-mapped file until its values are asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgellm import quant


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
