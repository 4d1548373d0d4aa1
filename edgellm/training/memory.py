"""Numbers into and out of a realized Tensor's memory, without a kernel or a schedule.

tinygrad's own ways look through all living Tensors each time, of which a deep model has thousands.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tinygrad import Tensor
from tinygrad.device import Buffer


def write(tensor: Tensor, values: NDArray[np.generic]) -> None:
    """Put values of the Tensor's own type and size into it."""
    raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    buffer = _buffer(tensor)
    if raw.nbytes != buffer.nbytes:
        raise ValueError(f"{raw.nbytes} bytes for a tensor of {buffer.nbytes}")
    if raw.readonly:
        raw = memoryview(bytearray(raw))
    buffer.copy_from(Buffer("PYTHON", buffer.size, buffer.dtype, opaque=raw))


def read(tensor: Tensor) -> NDArray[np.float32]:
    """A copy of a float32 Tensor's values, of its shape."""
    raw = _buffer(tensor).as_memoryview()
    return np.frombuffer(raw, np.float32).reshape(tuple(map(int, tensor.shape)))


def _buffer(tensor: Tensor) -> Buffer:
    found = tensor.uop.buffer
    if not isinstance(found, Buffer):
        raise ValueError("a tensor on several devices")
    return found.ensure_allocated()
