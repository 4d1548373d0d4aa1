"""Where an executor takes packed tensors from: a bundle, or a checkpoint packed on the way."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgellm import layout, packing
from edgellm.bundle import Bundle
from edgellm.checkpoint import Checkpoint

Bytes = NDArray[np.uint8]


class Weights(Protocol):
    """Packed tensors by name."""

    def __getitem__(self, name: str) -> Bytes:
        """Its bytes; they may be made as they are asked for."""

    def nbytes(self, name: str) -> int:
        """How many they are."""


class BundleWeights:
    """A bundle's tensors, in place."""

    def __init__(self, bundle: Bundle) -> None:
        self._tensors = bundle.tensors

    def __getitem__(self, name: str) -> Bytes:
        return np.frombuffer(self._tensors[name].data, np.uint8)

    def nbytes(self, name: str) -> int:
        return self._tensors[name].nbytes


class ExactWeights:
    """A checkpoint's tensors in float32, exactly dequantised one by one; matrices are packed."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._tensors = {
            name: tensor for name, tensor in checkpoint.tensors.items() if name not in layout.TABLES
        }
        self.formats = dict.fromkeys(packing.formats(self._tensors), "F32")

    def __getitem__(self, name: str) -> Bytes:
        tensor = self._tensors[name]
        if name in self.formats:
            packed = np.empty(self.nbytes(name), np.uint8)
            packing.pack_into(tensor, packed, "F32")
            return packed
        return np.ascontiguousarray(tensor.float32(), "<f4").reshape(-1).view(np.uint8)

    def nbytes(self, name: str) -> int:
        shape = self._tensors[name].shape
        if name in self.formats:
            return packing.packed_bytes("F32", *shape)
        return 4 * int(np.prod(shape, dtype=np.int64))
