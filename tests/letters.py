"""A tokenizer whose tokens are given texts, for tests that need no model."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class Letters:
    """Token i stands for `pieces[i]`; those in `control` are control tokens, without a text."""

    def __init__(
        self, pieces: Sequence[bytes], eog: frozenset[int] = frozenset(), **control: int
    ) -> None:
        self.pieces = list(pieces)
        self.size = len(pieces) + len(control)
        self.control = {f"<{name}>": token for name, token in control.items()}
        self.bos = self.eos = None
        self.eog = eog

    def encode(
        self, text: str, add_special: bool = False, parse_special: bool = False
    ) -> list[int]:
        if parse_special and text in self.control:
            return [self.control[text]]
        ids = {piece: token for token, piece in enumerate(self.pieces)}
        return [ids.get(bytes([byte]), self.size) for byte in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.piece, ids)).decode(errors="replace")

    def piece(self, token: int) -> bytes:
        return self.pieces[token] if token < len(self.pieces) else b""

    def stream(self) -> Decoder:
        return Decoder(self)


class Decoder:
    def __init__(self, letters: Letters) -> None:
        self.letters = letters
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self.decoder.decode(self.letters.piece(token))

    def flush(self) -> str:
        return self.decoder.decode(b"", final=True)
