"""Position tables, computed once in float64: rotary angles with their scalings, ALiBi's slopes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgellm.config import Rope


def frequencies(rope: Rope, context: int) -> NDArray[np.float64]:
    """The dim/2 angles per position for a model run with `context` positions.

    A longrope model uses its long factors for the whole run once the context exceeds the original
    one: keys in the cache must not change their rotation half-way.
    """
    plain = rope.theta ** (-np.arange(0, rope.dim, 2, dtype=np.float64) / rope.dim)
    factors = rope.factors
    if rope.long_factors and context > rope.original_context:
        factors = rope.long_factors
    if factors:
        plain = plain / np.asarray(factors, dtype=np.float64)
    if rope.yarn is None:
        return plain / rope.scale
    # YaRN: frequencies that turn often within the original context stay, slow ones are stretched.
    yarn = rope.yarn

    def channel(turns: float) -> float:
        return (
            rope.dim
            * math.log(yarn.original_context / (turns * 2 * math.pi))
            / (2 * math.log(rope.theta))
        )

    low = max(math.floor(channel(yarn.beta_fast)), 0)
    high = min(math.ceil(channel(yarn.beta_slow)), rope.dim - 1)
    ramp = np.clip((np.arange(rope.dim // 2) - low) / max(high - low, 0.001), 0, 1)
    return np.asarray(plain / yarn.factor * ramp + plain * (1 - ramp))


def rope_table(rope: Rope, context: int, positions: int) -> NDArray[np.float32]:
    """(positions, 2, dim/2): cosines and sines, times the rope's magnitude.

    `context` is what the model is run with; see `frequencies`.
    """
    turns = frequencies(rope, context)
    table = np.empty((positions, 2, len(turns)), np.float32)
    # Piece by piece: a long context's angles in float64 would take several times the memory.
    for begin in range(0, positions, 1024):
        piece = table[begin : begin + 1024]
        angles = np.outer(np.arange(begin, begin + len(piece), dtype=np.float64), turns)
        piece[:, 0], piece[:, 1] = np.cos(angles) * rope.magnitude, np.sin(angles) * rope.magnitude
    return table


def alibi_slopes(heads: int) -> NDArray[np.float32]:
    """(heads,): ALiBi's slopes (Press et al. 2021, arXiv:2108.12409), for any number of heads."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    slopes += [2 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)]
    return np.asarray(slopes, dtype=np.float32)
