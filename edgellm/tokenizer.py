"""Tokenizers: the contract, the vocabulary as model files carry it, and incremental decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class TokenizerData:
    """A vocabulary as found in a model file, whatever its format; checked before it gets here."""

    model: str
    """"llama" (SentencePiece BPE with scores) or "gpt2" (byte-level BPE with merges)."""
    pre: str = ""
    """The pre-tokenizer's name in GGUF's terms ("llama-bpe", "qwen2", …); "" where absent."""
    tokens: Sequence[str] = ()
    scores: Sequence[float] = ()
    types: Sequence[int] = ()
    """1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte (GGUF's numbering)."""
    merges: Sequence[str] = ()
    bos: int | None = None
    eos: int | None = None
    unk: int | None = None
    pad: int | None = None
    add_bos: bool | None = None
    add_eos: bool | None = None
    add_space_prefix: bool | None = None
    extra_eog: frozenset[int] = field(default_factory=frozenset)
    """Further end-of-generation ids that the file names (eot, eom, generation_config's list)."""


class StreamDecoder(Protocol):
    """Turns tokens into text as they come, never splitting a UTF-8 character."""

    def push(self, token: int) -> str:
        """Text that became complete with this token (may be empty)."""

    def flush(self) -> str:
        """What is left at the end; incomplete bytes become U+FFFD."""


class Tokenizer(Protocol):
    size: int
    """Number of ids, 0 … size-1."""
    bos: int | None
    eos: int | None
    eog: frozenset[int]
    """Every id that ends a generation: eos, end-of-turn, end-of-text and their kin."""

    def encode(
        self, text: str, add_special: bool = False, parse_special: bool = False
    ) -> list[int]:
        """Token ids of `text`.

        `add_special` adds bos/eos as the model wants; `parse_special` lets control tokens written
        out in the text (`<|im_end|>`) become their ids. User-defined tokens always do.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`: the concatenated pieces; invalid UTF-8 becomes U+FFFD."""

    def piece(self, token: int) -> bytes:
        """The bytes that one token stands for; b"" for control tokens."""

    def stream(self) -> StreamDecoder:
        """A fresh incremental decoder."""
