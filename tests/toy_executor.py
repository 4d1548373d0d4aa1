"""A deterministic little model and its tokenizer, for tests of what stands above the executor.

The logits are a hash of all tokens that a slot holds up to the position, so a token at a wrong
place, a wrong slot or a wrong position changes every later token; breaking the contract raises.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgellm.config import Config, Layer

BOS, EOS, TURN = 256, 257, 258
VOCAB = 259
POISON = -1


class ToyExecutor:
    """`ends` makes EOS likely every so many tokens; `record` lists the calls."""

    def __init__(self, context: int = 96, slots: int = 4, chunk: int = 8, ends: int = 0) -> None:
        self.config = Config("toy", VOCAB, 1, 1, 1, 1, context, (Layer(),))
        self.context, self.slots, self.chunk, self.ends = context, slots, chunk, ends
        self.memory = np.full((slots, context), POISON)
        self.record: list[tuple[str, tuple[int, ...], int]] = []
        """Call, slots, tokens fed (copied) to each."""
        self.closed = False
        self.fail_on: set[int] = set()
        """Tokens at which the model raises."""
        self.gate: threading.Event | None = None
        """While given and not set, calls wait."""
        self._thread: int | None = None

    def step(
        self, tokens: Sequence[int], slots: Sequence[int], positions: Sequence[int]
    ) -> NDArray[np.float32]:
        self._enter("step", slots, 1)
        assert len(tokens) == len(slots) == len(positions) >= 1
        assert len(set(slots)) == len(slots), "slots must be distinct"
        rows = [self._feed([t], s, p)[-1] for t, s, p in zip(tokens, slots, positions, strict=True)]
        return np.stack(rows)

    def prefill(
        self, tokens: Sequence[int], slot: int, position: int, every: bool = False
    ) -> NDArray[np.float32]:
        self._enter("prefill", [slot], len(tokens))
        rows = self._feed(tokens, slot, position)
        return np.stack(rows) if every else rows[-1]

    def copy(self, source: int, target: int, length: int) -> None:
        self._enter("copy", [source, target], length)
        assert source != target
        assert (self.memory[source, :length] != POISON).all()
        self.memory[target] = POISON
        self.memory[target, :length] = self.memory[source, :length]

    def close(self) -> None:
        self._enter("close", [], 0)
        self.closed = True

    def _enter(self, call: str, slots: Sequence[int], count: int) -> None:
        if self.gate is not None:
            assert self.gate.wait(10)
        assert not self.closed
        self._thread = self._thread or threading.get_ident()
        assert self._thread == threading.get_ident(), "one thread only"
        self.record.append((call, tuple(slots), count))

    def _feed(self, tokens: Sequence[int], slot: int, position: int) -> list[NDArray[np.float32]]:
        assert tokens
        assert position + len(tokens) <= self.context
        held = self.memory[slot]
        assert (held[:position] != POISON).all(), "positions below must be filled"
        held[position:] = POISON  # and those above are forgotten
        rows = []
        for place, token in enumerate(tokens, position):
            if token in self.fail_on:
                raise RuntimeError("the toy breaks")
            held[place] = token
            rows.append(self._logits(held[: place + 1]))
        return rows

    def _logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        seed = zlib.crc32(tokens.tobytes())
        logits = np.random.default_rng(seed).normal(size=VOCAB).astype(np.float32)
        logits[:32] = logits[127:] = -100  # printable ASCII only
        if self.ends and seed % self.ends == 0:
            logits[EOS] = 100
        return logits


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
        while text:
            special = next((s for s in self.specials if parse_special and text.startswith(s)), "")
            ids += [self.specials[special]] if special else list(text[0].encode())
            text = text[len(special) or 1 :]
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
