"""The executor that runs a Transformer under tinygrad's JIT, on whatever device a backend has set.

Strategy: layers of the same shapes share one captured step, which takes their weights and their
memory as inputs; so a deep model starts as fast as a shallow one. Slot and position are bound
variables, so nothing is compiled again as a sequence grows. There is a step for one token and one
for a chunk of tokens. A prompt's last, shorter chunk is padded: the rows that padding writes lie
past the sequence's end and are overwritten before anything reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from tinygrad import Tensor, TinyJit, UOp

from edgellm import layout
from edgellm.adapted_transformer import AdaptedTransformer
from edgellm.adapter import Adapter
from edgellm.bundle import Bundle
from edgellm.checkpoint import Checkpoint
from edgellm.config import Layer
from edgellm.executor import CHUNK, Cancelled, Progress
from edgellm.model import Block, Transformer, empty_rows


class Step:
    """A Transformer's step for a fixed number T of tokens, in captured pieces."""

    def __init__(self, transformer: Transformer) -> None:
        self.transformer = transformer
        self._embed = TinyJit(lambda tokens, start: transformer.embed(tokens, start).realize())
        self._last = TinyJit(lambda x, row: self._head(x[0, row : row + 1].contiguous())[0])
        self._every = TinyJit(lambda x: self._head(x[0]))
        self._layers: list[tuple[Block, Callable[..., None]]] = []
        shared: dict[object, Callable[..., None]] = {}
        for block, layer in zip(transformer.blocks, transformer.config.layers, strict=True):
            shapes = frozenset((name, weight.shape, weight.dtype) for name, weight in block.items())
            if (layer, shapes) not in shared:
                shared[layer, shapes] = TinyJit(self._layer(layer))
            self._layers.append((block, shared[layer, shapes]))

    def hidden(self, tokens: Sequence[int], rows: list[Tensor], slot: UOp, start: UOp) -> Tensor:
        """The last layer's output, (1, T, D), for tokens at `start` of `slot`."""
        x: Tensor = self._embed(Tensor(np.asarray([tokens], dtype=np.int32)), start)
        for (block, layer), past in zip(self._layers, rows, strict=True):
            layer(x, past, block, slot, start)
        return x

    def last(self, hidden: Tensor, row: UOp) -> NDArray[np.float32]:
        """Logits (V,) of one row of the last layer's output."""
        return self._last(hidden, row).numpy()

    def every(self, hidden: Tensor) -> NDArray[np.float32]:
        """Logits (T, V)."""
        return self._every(hidden).numpy()

    def _layer(self, layer: Layer) -> Callable[[Tensor, Tensor, Block, UOp, UOp], None]:
        def run(x: Tensor, rows: Tensor, block: Block, slot: UOp, start: UOp) -> None:
            # In place, or the JIT would have to copy its own last result to read it again.
            x.assign(self.transformer.block(block, layer, x, rows, slot, start)).realize()

        return run

    def _head(self, hidden: Tensor) -> Tensor:
        return self.transformer.logits(self.transformer.final(hidden)).realize()


class JitExecutor:
    """Implements `edgellm.executor.Executor`, in float32 throughout."""

    def __init__(
        self,
        model: Checkpoint | Bundle,
        context: int,
        slots: int,
        chunk: int = CHUNK,
        progress: Progress | None = None,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        self.config, self.context, self.slots = model.config, context, slots
        self.threads = 1
        self.chunk = min(chunk, context)
        self.max_rows = self.chunk + slots
        self._cancelled = False
        weights = _upload(model, progress)
        sizes = context, self.chunk
        self._adapted = (
            AdaptedTransformer(self.config, weights, *sizes, adapters) if adapters else None
        )
        self._strengths = [(0.0,) * len(adapters)] * slots
        transformer = self._adapted or Transformer(self.config, weights, *sizes)
        self._rows = [
            empty_rows(self.config, layer, context + self.chunk, slots)
            for layer in self.config.layers
        ]
        self._steps = {count: Step(transformer) for count in {1, self.chunk}}
        # By the shape of a layer's rows: slots, positions and the rows themselves are inputs.
        self._copies = {rows.shape: TinyJit(self._copy) for rows in self._rows}
        self._warm_up(progress)

    def run(
        self,
        tokens: Sequence[int],
        slots: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
    ) -> NDArray[np.float32]:
        """Slot by slot: rows that share a step gain nothing here."""
        if not 0 < len(tokens) <= self.max_rows:
            raise ValueError(f"{len(tokens)} rows in a step of 1 to {self.max_rows}")
        self._cancelled = False
        asked, logits = set(wanted), []
        for slot, group in groupby(range(len(tokens)), key=slots.__getitem__):
            if self._cancelled:
                raise Cancelled
            rows = list(group)
            fed = [tokens[row] for row in rows]
            every = not asked.isdisjoint(rows[:-1])
            found = self.prefill(fed, slot, positions[rows[0]], every)
            found = found if every else found[None]
            logits += [found[row - rows[-1] - 1] for row in rows if row in asked]
        return np.array(logits, np.float32).reshape(len(wanted), self.config.vocab)

    def cancel(self) -> None:
        self._cancelled = True

    def step(
        self, tokens: Sequence[int], slots: Sequence[int], positions: Sequence[int]
    ) -> NDArray[np.float32]:
        rows = [
            self.prefill([token], slot, position)
            for token, slot, position in zip(tokens, slots, positions, strict=True)
        ]
        return np.stack(rows)

    def prefill(
        self, tokens: Sequence[int], slot: int, position: int, every: bool = False
    ) -> NDArray[np.float32]:
        in_place = 0 <= slot < self.slots and 0 <= position <= self.context - len(tokens)
        if not (tokens and in_place):
            raise ValueError(
                f"{len(tokens)} tokens at {position} of slot {slot} in a context of {self.context}"
            )
        at = self._slot("slot", slot)
        if self._adapted is not None:
            self._adapted.adapt(self._strengths[slot])
        logits: list[NDArray[np.float32]] = []
        for begin in range(0, len(tokens), self.chunk):
            piece = list(tokens[begin : begin + self.chunk])
            count = len(piece)
            if count > 1:
                piece += piece[-1:] * (self.chunk - count)
            step = self._steps[len(piece)]
            hidden = step.hidden(piece, self._rows, at, self._start(position + begin))
            if every:
                logits.append(step.every(hidden)[:count])
            elif begin + count == len(tokens):
                row = _bound("row", count - 1, max(self.chunk - 1, 1))
                return step.last(hidden, row)
        return np.concatenate(logits)

    @property
    def choice(self) -> None:
        return None

    def copy(self, source: int, target: int, length: int) -> None:
        in_slots = 0 <= source < self.slots and 0 <= target < self.slots
        if not (in_slots and 0 <= length <= self.context):
            raise ValueError(f"{length} positions from slot {source} to {target} of {self.slots}")
        origin, end = self._slot("source", source), self._slot("target", target)
        for begin in range(0, length, self.chunk):
            for rows in self._rows:
                self._copies[rows.shape](rows, origin, end, self._start(begin))

    def adapt(self, slot: int, strengths: Sequence[float]) -> None:
        self._strengths[slot] = tuple(strengths)

    def close(self) -> None:
        self._steps.clear()
        self._copies.clear()
        self._rows.clear()

    def _copy(self, rows: Tensor, source: UOp, target: UOp, start: UOp) -> None:
        """Copy a chunk of rows from one slot to another."""
        chunk = rows[source : source + 1, :, start : start + self.chunk].contiguous()
        rows[target : target + 1, :, start : start + self.chunk].assign(chunk).realize()

    def _slot(self, name: str, slot: int) -> UOp:
        return _bound(name, slot, max(self.slots - 1, 1))

    def _start(self, position: int) -> UOp:
        return _bound("start", position, self.context - 1)

    def _warm_up(self, progress: Progress | None) -> None:
        """Compile and capture the steps now, so that the first answer doesn't wait for it."""
        # tinygrad's JIT runs a function as it is the first time and captures it the second time.
        sizes = [1, self.chunk] * 2
        for index, size in enumerate(sizes):
            if progress:
                progress("compiling", index, len(sizes))
            self.prefill([0] * size, 0, 0)
            if self.slots > 1:
                self.copy(0, 1, 1)
        if progress:
            progress("compiling", len(sizes), len(sizes))


def _bound(name: str, value: int, highest: int) -> UOp:
    """A variable of the captured steps, with its value for now."""
    bound: UOp = UOp.variable(name, 0, highest).bind(value)
    return bound


def _upload(model: Checkpoint | Bundle, progress: Progress | None) -> dict[str, Tensor]:
    """The weights on the device."""
    stored = [t for t in model.tensors.values() if t.name not in layout.TABLES]
    total, done = sum(tensor.nbytes for tensor in stored), 0
    weights: dict[str, Tensor] = {}
    for tensor in stored:
        values = np.require(np.atleast_1d(tensor.float32()), requirements="W")
        weights[tensor.name] = Tensor(values).realize()
        done += tensor.nbytes
        if progress:
            progress("loading", done, total)
    return weights
