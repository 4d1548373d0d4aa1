"""Slots, rows and cuts: what the scheduler asks for, put to the Transformer piece by piece."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from edgellm import layout, memory
from edgellm.bundle import Bundle
from edgellm.checkpoint import Checkpoint
from edgellm.config import rows_shape
from edgellm.executor import CHUNK, Cancelled

from .transformer import Transformer

RUNTIME_BYTES = 60 << 20
"""What Python and NumPy take."""


class Executor:
    """Implements `edgellm.executor.Executor`.

    A piece of up to `chunk` rows of one slot is computed at once, apart from all others: a matrix
    product may round differently beside other rows, and a sequence must not depend on them.
    """

    chunk = CHUNK
    choice = None
    threads = 1

    def __init__(self, model: Bundle | Checkpoint, context: int, slots: int) -> None:
        self.config, self.context, self.slots = model.config, context, slots
        self.max_rows = max(4 * self.chunk, slots)
        stored = {n: each for n, each in model.tensors.items() if n not in layout.TABLES}
        shapes = [rows_shape(self.config, layer, context, slots) for layer in self.config.layers]
        numbers = sum(math.prod(each.shape) for each in stored.values())
        numbers += sum(math.prod(shape) for shape in shapes)
        memory.require(model.path, RUNTIME_BYTES + 4 * numbers, context, slots)
        weights = {name: tensor.float32() for name, tensor in stored.items()}
        self._model: Transformer | None = Transformer(self.config, weights, context)
        self._memory = [np.zeros(shape, np.float32) for shape in shapes]
        self._cancelled = False

    def run(
        self,
        tokens: Sequence[int],
        slots: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
    ) -> NDArray[np.float32]:
        model = self._check(tokens, slots, positions)
        self._cancelled = False
        asked, found = set(wanted), []
        for slot, group in groupby(range(len(tokens)), key=slots.__getitem__):
            rows = list(group)
            past = [layer[slot] for layer in self._memory]
            for begin in range(0, len(rows), self.chunk):
                if self._cancelled:
                    raise Cancelled
                piece = rows[begin : begin + self.chunk]
                hidden = model.hidden([tokens[row] for row in piece], past, positions[piece[0]])
                found += [
                    model.logits(state)
                    for row, state in zip(piece, hidden, strict=True)
                    if row in asked
                ]
        return np.array(found, np.float32).reshape(len(wanted), self.config.vocab)

    def cancel(self) -> None:
        self._cancelled = True

    def step(
        self, tokens: Sequence[int], slots: Sequence[int], positions: Sequence[int]
    ) -> NDArray[np.float32]:
        return self.run(tokens, slots, positions, range(len(tokens)))

    def prefill(
        self, tokens: Sequence[int], slot: int, position: int, every: bool = False
    ) -> NDArray[np.float32]:
        if not tokens or position + len(tokens) > self.context:
            raise ValueError(f"{len(tokens)} tokens at {position} in a context of {self.context}")
        pieces = []
        for begin in range(0, len(tokens), self.chunk):
            piece = tokens[begin : begin + self.chunk]
            count, places = len(piece), range(position + begin, position + begin + len(piece))
            pieces.append(
                self.run(piece, [slot] * count, places, range(0 if every else count - 1, count))
            )
        return np.concatenate(pieces) if every else pieces[-1][0]

    def copy(self, source: int, target: int, length: int) -> None:
        in_slots = 0 <= source < self.slots and 0 <= target < self.slots
        if not (in_slots and 0 <= length <= self.context):
            raise ValueError(f"{length} positions from slot {source} to {target} of {self.slots}")
        for layer in self._memory:
            layer[target, :, :length] = layer[source, :, :length]

    def close(self) -> None:
        self._model = None
        self._memory = []

    def _check(
        self, tokens: Sequence[int], slots: Sequence[int], positions: Sequence[int]
    ) -> Transformer:
        """The model, if it is open and has a place for all rows."""
        if self._model is None:
            raise ValueError("the model has been closed")
        if not 0 < len(tokens) <= self.max_rows:
            raise ValueError(f"{len(tokens)} rows in a step of 1 to {self.max_rows}")
        for token, slot, position in zip(tokens, slots, positions, strict=True):
            in_place = 0 <= slot < self.slots and 0 <= position < self.context
            if not (in_place and 0 <= token < self.config.vocab):
                raise ValueError(
                    f"token {token} in slot {slot} of {self.slots}, position {position} in a "
                    f"context of {self.context}"
                )
        return self._model
