"""How much memory a model takes while it runs, and whether this machine has so much."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgellm.config import rows_shape
from edgellm.errors import FitError
from edgellm.executor import CHUNK
from edgellm.layout import TABLES

if TYPE_CHECKING:
    from edgellm.checkpoint import Checkpoint
    from edgellm.config import Config

RUNTIME_BYTES = 80 << 20
"""What Python, NumPy and tinygrad take before the first weight is loaded, measured on x86-64."""

BUNDLE_BYTES = 60 << 20
"""What Python, NumPy and the work of a step take where a bundle is run."""

REMEDY = "a shorter context (-c) or a smaller model takes less"


def needed(checkpoint: Checkpoint, context: int, slots: int = 1) -> int:
    """Bytes that a process takes at most which runs a model in `edgellm.jit_executor.JitExecutor`:
    while it loads, or with `slots` sequences of `context` positions."""
    config = checkpoint.config
    positions = context + min(CHUNK, context)
    weights = loading = 0
    for name, tensor in checkpoint.tensors.items():
        if name in TABLES:
            continue
        nbytes = 4 * math.prod(tensor.shape)
        weights += nbytes
        loading = max(loading, weights + nbytes)  # dequantised, then copied
    rows = sum(math.prod(rows_shape(config, layer, positions, slots)) for layer in config.layers)
    return RUNTIME_BYTES + max(loading, weights + 4 * rows + _work(config, positions))


def running(config: Config, weights: int, context: int, slots: int = 1) -> int:
    """Bytes that a process takes, about, which runs a bundle of `weights` bytes, with `slots`
    sequences of `context` positions in float16."""
    rows = sum(
        math.prod(rows_shape(config, layer, context, slots)) * (4 if layer.kind == "conv" else 2)
        for layer in config.layers
    )
    tables = sum(4 * context * rope.dim for rope in config.ropes)
    return BUNDLE_BYTES + weights + rows + tables


def _work(config: Config, positions: int) -> int:
    """Bytes of the position tables, and of what a captured step of a chunk works on: each kind of
    layer keeps its scores and their exponentials, as was measured."""
    tables = sum(positions * rope.dim for rope in config.ropes)
    if config.position == "learned":
        tables += positions * config.dim
    kinds = len({layer for layer in config.layers if layer.kind == "attention"})
    return 4 * (tables + 2 * kinds * config.heads * CHUNK * positions)


def check(checkpoint: Checkpoint, context: int, slots: int = 1) -> None:
    """Raise FitError if the machine's whole memory is less than what is needed."""
    require(checkpoint.path, needed(checkpoint, context, slots), context, slots)


def require(file: object, need: int, context: int, slots: int) -> None:
    """Raise FitError if the machine's whole memory is less than `need` bytes."""
    there = physical()
    if there is not None and need > there:
        conversations = f"{slots} contexts" if slots > 1 else "a context"
        raise FitError(
            f"{file} needs about {size(need)} with {conversations} of {context} tokens, "
            f"this machine has {size(there)}; {REMEDY}"
        )


@contextmanager
def fitting(file: object) -> Iterator[None]:
    """Raise FitError where the system refuses memory to what runs inside."""
    try:
        yield
    except (MemoryError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENOMEM:
            raise
        raise FitError(f"{file}: there is no memory left to load it; {REMEDY}") from error


def physical() -> int | None:
    """Bytes of memory that this machine has; None where the system doesn't tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def size(count: int) -> str:
    """A number of bytes for people, in binary units."""
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"
