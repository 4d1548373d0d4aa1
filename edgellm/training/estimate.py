"""What a training will take: memory from the shapes, time from a product tried out."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgellm import layout, packing
from edgellm.checkpoint import Checkpoint
from edgellm.config import Config
from edgellm.errors import FitError
from edgellm.memory import size
from edgellm.packing import NOT_PACKED
from edgellm.training.batch import head_rows

BASE_BYTES = 430 << 20
"""What Python, NumPy, tinygrad and its compiled steps take besides the tensors, measured on
x86-64."""

SPARE = 256 << 20
"""Bytes that may be spent to save time."""


@dataclass(frozen=True)
class Shape:
    """Of the batches that are computed at once."""

    rows: int
    length: int
    roomy: bool = False
    """What layers compute on the way forward is kept for the way back."""

    @property
    def positions(self) -> int:
        return self.rows * self.length


def memory(checkpoint: Checkpoint, shape: Shape, learnt: Mapping[str, tuple[int, ...]]) -> int:
    """Bytes that a process takes at most, about."""
    config, floats = checkpoint.config, 0
    frozen = 0
    for name, tensor in checkpoint.tensors.items():
        if name in layout.TABLES or name in learnt:
            continue
        if name == "token_embd.weight" and "output.weight" in checkpoint.tensors:
            continue
        if len(tensor.shape) == 2 and not name.endswith(NOT_PACKED):
            frozen += packing.packed_bytes(packing.choose(tensor)[0], *tensor.shape)
        else:
            floats += math.prod(tensor.shape)
    # Each with its gradient and two moments.
    floats += 4 * sum(math.prod(each) for each in learnt.values())
    positions = shape.positions
    floats += (len(config.layers) + 4) * positions * config.dim  # inputs of layers, ways back
    queries = config.heads * config.head_dim
    # A layer computed anew and gone back through: what comes before and after each product.
    kinds = len({layer for layer in config.layers})
    floats += kinds * positions * (10 * config.dim + 8 * queries + 9 * config.hidden)
    floats += 3 * head_rows(config.vocab, positions) * config.vocab
    if shape.roomy:
        floats += results(config, positions)
    return BASE_BYTES + frozen + 4 * floats


def results(config: Config, positions: int) -> int:
    """Of the products and attention of all layers, how many numbers there are."""
    queries = config.heads * config.head_dim
    widths = sum(
        3 * config.dim + 2 * queries + 2 * layer.kv_heads * config.head_dim + 2 * config.hidden
        for layer in config.layers
    )
    return positions * widths


def fit(
    checkpoint: Checkpoint,
    rows: int,
    length: int,
    learnt: Mapping[str, tuple[int, ...]],
    most: int | None,
) -> tuple[Shape, int]:
    """The shape of batches of up to `rows` rows that stays within `most` bytes, and its bytes.

    The number of rows divides `rows`, so that a step adds up whole batches. Memory is spent to save
    time where that takes no more than SPARE. Raises FitError where not even one row fits.
    """
    need = 0
    for count in (count for count in range(rows, 0, -1) if rows % count == 0):
        shape = Shape(count, length)
        need = memory(checkpoint, shape, learnt)
        if most is None or need <= most:
            roomy = replace(shape, roomy=True)
            more = memory(checkpoint, roomy, learnt)
            if more - need <= SPARE and (most is None or more <= most):
                return roomy, more
            return shape, need
    raise FitError(
        f"{checkpoint.path}: training takes about {size(need)} with rows of {length} tokens, "
        f"{size(most or 0)} are allowed; shorter rows (-c), a smaller rank or model take less"
    )


def seconds_per_token(checkpoint: Checkpoint, full: bool, shape: Shape) -> float:
    """About the time of a token, from a product of the model's own shape in NumPy.

    A frozen matrix is multiplied three times: forward, anew, back; a learning one four times; once
    less where what was computed forward is kept.
    """
    config = checkpoint.config
    a = np.ones((min(shape.positions, 512), config.dim), np.float32)
    b = np.ones((config.dim, config.hidden), np.float32)
    a @ b
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < 0.1:
        a @ b
        count += 1
    rate = 2 * count * a.size * config.hidden / (time.perf_counter() - began)
    tensors = checkpoint.tensors
    layers = sum(math.prod(t.shape) for name, t in tensors.items() if name.startswith("blk."))
    head = config.vocab * config.dim
    times = (4 if full else 3) - shape.roomy
    work = 2 * (times * layers + (3 if full else 2) * head)
    return OVERHEAD * work / rate


OVERHEAD = 1.6
"""All the rest, norms and attention above all: an estimate."""
