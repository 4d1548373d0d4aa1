from __future__ import annotations

import contextlib
import random
import struct
from pathlib import Path

import pytest

from edgellm.errors import FormatError, UnsupportedError
from edgellm.huggingface import sentencepiece

DATA = Path(__file__).parent / "data" / "tokenizers"
Value = int | float | bytes


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: Value) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


def model(
    pieces: bytes = field(1, field(1, b"a") + field(2, -1.5)),
    trainer: bytes = field(3, 2),
    normalizer: bytes = field(4, 0),
) -> bytes:
    return pieces + field(2, trainer) + field(3, normalizer)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokenizer.model"


def read(file: Path, content: bytes) -> sentencepiece.SentencePieceModel:
    file.write_bytes(content)
    return sentencepiece.read(file)


def test_a_model(file: Path) -> None:
    pieces = field(1, field(1, b"<unk>") + field(3, 2)) + field(1, field(1, "▁é".encode()))
    ids = field(40, 0) + field(41, 1) + field(42, (1 << 64) - 1)
    found = read(file, model(pieces, field(3, 2) + ids, field(3, 0) + field(4, 0)))
    assert found.pieces == ["<unk>", "▁é"]
    assert found.scores == [0.0, 0.0]
    assert found.types == [2, 1]
    assert found.special == {"unk": 0, "bos": 1}
    assert not found.space_prefix


def test_fields_that_are_not_needed_are_skipped(file: Path) -> None:
    extra = field(4, b"self test") + varint(9 << 3 | 1) + bytes(8) + field(10, 1.0)
    found = read(file, model() + extra)
    assert (found.pieces, found.scores, found.space_prefix) == (["a"], [-1.5], True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (model(trainer=b""), "model_type is 'unigram'; BPE is supported"),
        (model(trainer=field(3, 3)), "model_type is 'word'"),
        (model(normalizer=field(1, b"nmt_nfkc") + field(2, b"x")), "normalizer is 'nmt_nfkc'"),
        (model(normalizer=b""), "remove_extra_whitespaces is True"),
    ],
)
def test_what_is_not_run_is_refused_by_name(file: Path, content: bytes, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        read(file, content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "pieces is 0"),
        (b"\x0a\xff\xff\xff\xff\x0f", "length in model is 4294967295; 0 bytes are left"),
        (b"\x0a", "model is 'cut off'"),
        (b"\xff" * 11, "over 10 bytes"),
        (b"\x0b", "wire type in model is 3"),
        (b"\x00\x00", "field in model is 0"),
        (field(1, 7), "piece 0 is 7; it must be a string or message"),
        (field(1, field(1, b"\xff")), "text of piece 0"),
        (field(1, field(2, float("nan"))), "score of piece 0 is nan"),
        (field(1, field(2, b"1")), "score of piece 0"),
        (field(1, field(3, 9)), "type of piece 0 is 9"),
        (field(1, field(1, b"a")) + field(2, 1), "trainer_spec is 1"),
    ],
)
def test_broken_files_are_named(file: Path, content: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read(file, content)


def test_mutated_models_raise_nothing_but_format_errors(file: Path) -> None:
    sound = (DATA / "llama" / "tokenizer.model").read_bytes()
    rng = random.Random(4)
    for _ in range(300):
        content = bytearray(sound[: rng.choice([len(sound), rng.randrange(len(sound))])])
        for _ in range(rng.randrange(1, 8)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        with contextlib.suppress(FormatError):
            read(file, bytes(content))
