"""The executor that runs a Transformer under tinygrad's JIT, on whatever device a backend has set.

Strategy: each kind of step (one token; a chunk of tokens; a chunk with all its logits) is captured
once, with the slot and the position as bound variables, so nothing is compiled again as a sequence
grows. A prompt's last, shorter chunk is padded: the rows that the padding writes lie beyond the
sequence's end and are overwritten before anything reads them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tinygrad import Tensor, TinyJit, UOp

from edgellm import layout
from edgellm.checkpoint import Checkpoint, StoredTensor
from edgellm.executor import Progress
from edgellm.model import Cache, Transformer

HALF_MAX = 65504.0


class JitExecutor:
    """Implements `edgellm.executor.Executor`.

    Weights are held in float32 if `exact`, else matrices in float16 where their values fit.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        context: int,
        slots: int,
        exact: bool,
        chunk: int = 32,
        progress: Progress | None = None,
    ) -> None:
        self.config, self.context, self.slots = checkpoint.config, context, slots
        self.chunk = min(chunk, context)
        weights: dict[str, Tensor] = {}
        stored = [t for t in checkpoint.tensors.values() if t.name not in layout.TABLES]
        total, done = sum(tensor.nbytes for tensor in stored), 0
        for tensor in stored:
            weights[tensor.name] = _upload(tensor, exact)
            done += tensor.nbytes
            if progress:
                progress("loading", done, total)
        self.transformer = Transformer(self.config, weights, context, margin=self.chunk)
        self.cache = Cache(self.config, context + self.chunk, slots, "float32" if exact else "half")
        # Each (1, T) token ids, slot, start, [row] -> logits (V,), or (T, V) for every.
        self._one, self._many, self._every = (
            TinyJit(f) for f in (self._last, self._last, self._all)
        )
        self._warm_up(progress)

    def step(
        self, tokens: Sequence[int], slots: Sequence[int], positions: Sequence[int]
    ) -> NDArray[np.float32]:
        rows = [
            self._decode(token, slot, position)
            for token, slot, position in zip(tokens, slots, positions, strict=True)
        ]
        return np.stack(rows)

    def prefill(
        self, tokens: Sequence[int], slot: int, position: int, every: bool = False
    ) -> NDArray[np.float32]:
        if not tokens or position + len(tokens) > self.context:
            raise ValueError(f"{len(tokens)} tokens at {position} in a context of {self.context}")
        rows: list[NDArray[np.float32]] = []
        for begin in range(0, len(tokens), self.chunk):
            piece = list(tokens[begin : begin + self.chunk])
            if len(piece) == 1:
                rows.append(self._decode(piece[0], slot, position + begin)[None])
                continue
            padded = _ids(piece + [piece[-1]] * (self.chunk - len(piece)))
            place = self._place(slot, position + begin)
            if every:
                rows.append(self._every(padded, *place).numpy()[: len(piece)])
            else:
                row = UOp.variable("row", 0, self.chunk - 1).bind(len(piece) - 1)
                rows = [self._many(padded, *place, row).numpy()[None]]
        logits = np.concatenate(rows)
        return logits if every else logits[-1]

    def copy(self, source: int, target: int, length: int) -> None:
        for rows in self.cache.rows:
            rows[target, :, :length].assign(rows[source, :, :length].contiguous()).realize()

    def close(self) -> None:
        del self.transformer, self.cache, self._one, self._many, self._every

    def _last(self, tokens: Tensor, slot: UOp, start: UOp, row: UOp | int = 0) -> Tensor:
        hidden = self.transformer.hidden(tokens, self.cache, slot, start)  # (1, T, D)
        return self.transformer.logits(hidden[0, row : row + 1].contiguous())[0].realize()

    def _all(self, tokens: Tensor, slot: UOp, start: UOp) -> Tensor:
        hidden = self.transformer.hidden(tokens, self.cache, slot, start)  # (1, T, D)
        return self.transformer.logits(hidden)[0].realize()

    def _decode(self, token: int, slot: int, position: int) -> NDArray[np.float32]:
        if position >= self.context:
            raise ValueError(f"position {position} in a context of {self.context}")
        return self._one(_ids([token]), *self._place(slot, position)).numpy()

    def _place(self, slot: int, start: int) -> tuple[UOp, UOp]:
        return (
            UOp.variable("slot", 0, max(self.slots - 1, 1)).bind(slot),
            UOp.variable("start", 0, self.context - 1).bind(start),
        )

    def _warm_up(self, progress: Progress | None) -> None:
        """Compile and capture the steps now, so that the first answer doesn't wait for it."""
        runs = 2  # tinygrad's JIT runs a function as it is the first time and captures the second
        for index in range(runs):
            if progress:
                progress("compiling", 2 * index, 2 * runs)
            self._decode(0, 0, 0)
            if progress:
                progress("compiling", 2 * index + 1, 2 * runs)
            if self.chunk > 1:
                self.prefill([0] * self.chunk, 0, 0)
        if progress:
            progress("compiling", 2 * runs, 2 * runs)


def _ids(tokens: Sequence[int]) -> Tensor:
    return Tensor(np.asarray([tokens], dtype=np.int32))


def _upload(tensor: StoredTensor, exact: bool) -> Tensor:
    values = tensor.float32()
    if not exact and values.ndim == 2 and np.abs(values).max(initial=0.0) <= HALF_MAX:
        values = values.astype(np.float16)
    return Tensor(values).realize()
