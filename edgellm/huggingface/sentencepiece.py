"""SentencePiece's `tokenizer.model`: a protobuf message, read by a small reader of our own.

Field numbers are those of sentencepiece_model.proto (github.com/google/sentencepiece).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgellm import bounded_file
from edgellm.errors import FormatError, UnsupportedError
from edgellm.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

LIMIT = 64 << 20
"""Bytes; real ones have up to 5 MB."""
MAX_PIECES = 1 << 20

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
UNIGRAM, BPE = 1, 2
MODEL_TYPES = {1: "unigram", 2: "BPE", 3: "word", 4: "char"}
KINDS = (NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE)


@dataclass(frozen=True)
class SentencePieceModel:
    pieces: list[str]
    scores: list[float]
    types: list[int]
    """In GGUF's numbering, which is SentencePiece's."""
    space_prefix: bool
    special: dict[str, int]
    """Ids of "unk", "bos", "eos" and "pad", where there are such."""


def read(path: Path) -> SentencePieceModel:
    """The BPE model in a `tokenizer.model` file.

    Raises FormatError for a broken file, UnsupportedError for models other than BPE or with a
    normalisation of their own.
    """
    return _Reader(path).model(bounded_file.read(path, LIMIT))


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path

    def model(self, data: bytes) -> SentencePieceModel:
        pieces: list[str] = []
        scores: list[float] = []
        types: list[int] = []
        trainer: dict[int, int | bytes] = {}
        normalizer: dict[int, int | bytes] = {}
        for number, value in self.fields(data, "model"):
            if number == 1:
                if len(pieces) == MAX_PIECES:
                    raise FormatError(self.path, "pieces", "more", f"{MAX_PIECES} is the limit")
                piece, score, kind = self.piece(value, len(pieces))
                pieces.append(piece)
                scores.append(score)
                types.append(kind)
            elif number == 2:
                trainer.update(self.fields(self.message(value, "trainer_spec"), "trainer_spec"))
            elif number == 3:
                message = self.message(value, "normalizer_spec")
                normalizer.update(self.fields(message, "normalizer_spec"))
        if not pieces:
            raise FormatError(self.path, "pieces", 0, "a vocabulary has at least one")
        self.check_model_type(trainer.get(3, UNIGRAM))
        self.check_normalizer(normalizer)
        return SentencePieceModel(
            pieces=pieces,
            scores=scores,
            types=types,
            space_prefix=bool(normalizer.get(3, 1)),
            special=self.special(trainer, len(pieces)),
        )

    def check_model_type(self, kind: int | bytes) -> None:
        if kind != BPE:
            name = MODEL_TYPES.get(kind, kind) if isinstance(kind, int) else kind
            raise UnsupportedError(self.path, "model_type", name, "BPE is supported")

    def check_normalizer(self, normalizer: dict[int, int | bytes]) -> None:
        if normalizer.get(2, b""):
            name = normalizer.get(1, b"")
            shown = name.decode(errors="replace") if isinstance(name, bytes) else name
            raise UnsupportedError(self.path, "normalizer", shown, "'identity' is supported")
        if normalizer.get(4, 1):
            allowed = "only models that keep white space as it is are supported"
            raise UnsupportedError(self.path, "remove_extra_whitespaces", True, allowed)

    def special(self, trainer: dict[int, int | bytes], count: int) -> dict[str, int]:
        found = {}
        for name, number, default in (("unk", 40, 0), ("bos", 41, 1), ("eos", 42, 2)):
            found[name] = trainer.get(number, default)
        found["pad"] = trainer.get(43, -1)
        return {
            name: value
            for name, value in found.items()
            if isinstance(value, int) and 0 <= value < count
        }

    def piece(self, value: int | bytes, index: int) -> tuple[str, float, int]:
        where = f"piece {index}"
        text, score, kind = b"", 0.0, NORMAL
        for number, field in self.fields(self.message(value, where), where):
            if number == 1:
                text = self.message(field, f"text of {where}")
            elif number == 2:
                raw = field if isinstance(field, int) else -1
                if not 0 <= raw < 1 << 32:
                    raise FormatError(self.path, f"score of {where}", field, "it must be a float")
                score = struct.unpack("<f", struct.pack("<I", raw))[0]
            elif number == 3:
                kind = field if isinstance(field, int) else 0
        if not math.isfinite(score):
            raise FormatError(self.path, f"score of {where}", score, "it must be finite")
        if kind not in KINDS:
            raise FormatError(self.path, f"type of {where}", kind, "it must be 1 to 6")
        try:
            return text.decode(), score, kind
        except UnicodeDecodeError:
            raise FormatError(self.path, f"text of {where}", text, "it must be UTF-8") from None

    def message(self, value: int | bytes, field: str) -> bytes:
        if isinstance(value, int):
            raise FormatError(self.path, field, value, "it must be a string or message")
        return value

    def fields(self, data: bytes, message: str) -> Iterator[tuple[int, int | bytes]]:
        """Number and value of each field; numbers of fixed size as unsigned integers."""
        at, end = 0, len(data)
        while at < end:
            key, at = self.varint(data, at, message)
            number, wire = key >> 3, key & 7
            value: int | bytes
            if wire == VARINT:
                value, at = self.varint(data, at, message)
            elif wire in (BYTES, FIXED32, FIXED64):
                length = 4 if wire == FIXED32 else 8
                if wire == BYTES:
                    length, at = self.varint(data, at, message)
                if length > end - at:
                    allowed = f"{end - at} bytes are left"
                    raise FormatError(self.path, f"length in {message}", length, allowed)
                raw = data[at : at + length]
                value = raw if wire == BYTES else int.from_bytes(raw, "little")
                at += length
            else:
                raise FormatError(self.path, f"wire type in {message}", wire, "0, 1, 2 or 5")
            if number == 0:
                raise FormatError(self.path, f"field in {message}", number, "they begin at 1")
            yield number, value

    def varint(self, data: bytes, at: int, message: str) -> tuple[int, int]:
        """A number of up to 64 bits, 7 a byte, and where it ends."""
        value = 0
        for shift in range(0, 70, 7):
            if at >= len(data):
                raise FormatError(self.path, message, "cut off", "a number must end")
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise FormatError(self.path, f"number in {message}", "over 10 bytes", "64 bits at most")
