"""A deterministic little model and its tokenizer, for tests of what stands above the executor.

The logits are a hash of all tokens that a slot holds up to the position, so a token at a wrong
place, a wrong slot or a wrong position changes every later token; breaking the contract raises.
"""

from __future__ import annotations

import re
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from edgellm.config import Config, Layer
from edgellm.executor import Cancelled

BOS, EOS, TURN = 256, 257, 258
VOCAB = 259
POISON = -1
CHOICES = np.random.default_rng(7).normal(size=(4096, 95)).astype(np.float32)
"""Logits of printable ASCII; others are hardly ever drawn."""


class ToyExecutor:
    """`ends` makes EOS likely every so many tokens; `record` lists the calls."""

    def __init__(
        self, context: int = 96, slots: int = 4, rows: int = 16, ends: int = 0, chunk: int = 1
    ) -> None:
        self.config = Config("toy", VOCAB, 1, 1, 1, 1, context, (Layer(),))
        self.context, self.slots, self.max_rows = context, slots, rows
        self.ends, self.chunk = ends, chunk
        self.memory = np.full((slots, context), POISON)
        self.strengths: list[tuple[float, ...]] = [()] * slots
        self.record: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
        """Call, slots, tokens fed (copied) to each."""
        self.closed = False
        self.fail_on: set[int] = set()
        """Tokens at which the model raises."""
        self.gate: threading.Event | None = None
        """While given and not set, steps wait, and can be cancelled."""
        self.during: Callable[[], None] = lambda: None
        """Called during every step."""
        self._cancelled = threading.Event()
        self._thread: int | None = None

    def run(
        self,
        tokens: Sequence[int],
        slots: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
    ) -> NDArray[np.float32]:
        assert 1 <= len(tokens) == len(slots) == len(positions) <= self.max_rows
        assert list(wanted) == sorted(set(wanted))
        groups = [(slot, len(list(group))) for slot, group in groupby(slots)]
        assert len({slot for slot, _ in groups}) == len(groups), "rows of a slot stand together"
        for slot, position in zip(slots, positions, strict=True):
            self.memory[slot, position:] = POISON  # whatever becomes of the call
        self._cancelled.clear()
        self._enter("run", [slot for slot, _ in groups], [count for _, count in groups])
        if self.gate is not None:
            until = time.monotonic() + 10
            while not (self.gate.wait(0.001) or self._cancelled.is_set()):
                assert time.monotonic() < until
        self.during()
        if self._cancelled.is_set():
            raise Cancelled
        for row, (token, slot, position) in enumerate(zip(tokens, slots, positions, strict=True)):
            if row and slots[row - 1] == slot:
                assert position == positions[row - 1] + 1
            self._feed(token, slot, position)
        return self._rows([(slots[row], positions[row]) for row in wanted])

    def cancel(self) -> None:
        self._cancelled.set()

    def step(
        self, tokens: Sequence[int], slots: Sequence[int], positions: Sequence[int]
    ) -> NDArray[np.float32]:
        return self.run(tokens, slots, positions, range(len(tokens)))

    def prefill(
        self, tokens: Sequence[int], slot: int, position: int, every: bool = False
    ) -> NDArray[np.float32]:
        """In one piece, however long."""
        self._enter("prefill", [slot], [len(tokens)])
        places = range(position, position + len(tokens))
        for token, place in zip(tokens, places, strict=True):
            self._feed(token, slot, place)
        rows = self._rows([(slot, place) for place in (places if every else places[-1:])])
        return rows if every else rows[0]

    choice = None

    def copy(self, source: int, target: int, length: int) -> None:
        self._enter("copy", [source, target], [length])
        assert source != target
        assert (self.memory[source, :length] != POISON).all()
        self.strengths[target] = self.strengths[source]
        self.memory[target] = POISON
        self.memory[target, :length] = self.memory[source, :length]

    def adapt(self, slot: int, strengths: Sequence[float]) -> None:
        if self.strengths[slot] != tuple(strengths):
            self.memory[slot] = POISON
            self.strengths[slot] = tuple(strengths)

    def close(self) -> None:
        self._enter("close", [], [])
        self.closed = True

    def _enter(self, call: str, slots: Sequence[int], counts: Sequence[int]) -> None:
        assert not self.closed
        self._thread = self._thread or threading.get_ident()
        assert self._thread == threading.get_ident(), "one thread only"
        self.record.append((call, tuple(slots), tuple(counts)))

    def _feed(self, token: int, slot: int, position: int) -> None:
        held = self.memory[slot]
        assert 0 <= position < self.context
        assert not position or held[position - 1] != POISON, "positions below must be filled"
        held[position:] = POISON  # and those above are forgotten
        if token in self.fail_on:
            raise RuntimeError("the toy breaks")
        held[position] = token

    def _rows(self, places: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
        rows = [
            self._logits(adapted(self.memory[slot, : position + 1], self.strengths[slot]))
            for slot, position in places
        ]
        return np.array(rows, np.float32).reshape(len(rows), VOCAB)

    def _logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        seed = zlib.crc32(tokens.tobytes())
        logits = np.full(VOCAB, -100, np.float32)
        logits[32:127] = CHOICES[seed % len(CHOICES)]
        if self.ends and seed // len(CHOICES) % self.ends == 0:
            logits[EOS] = 100
        return logits


def adapted(tokens: NDArray[np.int64], strengths: Sequence[float]) -> NDArray[np.int64]:
    """What the logits are a hash of where there are adapters."""
    return np.concatenate([np.array(strengths).view(np.int64), tokens]) if strengths else tokens


class ToyTokenizer:
    """One token a byte; three specials."""

    size = VOCAB
    bos: int | None = BOS
    eos: int | None = EOS
    eog = frozenset({EOS})
    specials = {"<bos>": BOS, "<eos>": EOS, "<turn>": TURN}  # noqa: RUF012 - never changed

    def encode(
        self, text: str, add_special: bool = False, parse_special: bool = False
    ) -> list[int]:
        ids = [BOS] if add_special else []
        if not parse_special:
            return [*ids, *text.encode()]
        for part in re.split("(<bos>|<eos>|<turn>)", text):
            ids += [self.specials[part]] if part in self.specials else part.encode()
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.piece, ids)).decode(errors="replace")

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def stream(self) -> ToyStream:
        return ToyStream(self)


class ToyStream:
    def __init__(self, tokenizer: ToyTokenizer) -> None:
        self._tokenizer = tokenizer

    def push(self, token: int) -> str:
        return self._tokenizer.decode([token])

    def flush(self) -> str:
        return ""
