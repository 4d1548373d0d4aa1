"""Vocabularies as bundles hold them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
import small_bundle

from edgellm import checkpoint, tokenizer_blob
from edgellm.errors import FormatError
from edgellm.tokenizer import TokenizerData

MODELS = Path(__file__).parent / "data" / "models"
BPE = TokenizerData(
    "gpt2",
    pre="llama-bpe",
    splits=("digits", "gpt-2"),
    tokens=["a", "b", "\udcff\udc80", "\ue000", "\0", "ab", ""],
    types=[1, 1, 3, 3, 6, 1, 1],
    merges=["a b"],
    scores=[],
    eos=2,
    pad=6,
    add_bos=False,
    ignore_merges=True,
    normal_form="NFC",
    lstrip=frozenset({2, 3}),
    extra_eog=frozenset({3}),
)


@pytest.mark.parametrize("data", [BPE, small_bundle.VOCABULARY], ids=["bpe", "spm"])
def test_what_was_written_is_found(data: TokenizerData) -> None:
    found = tokenizer_blob.read(memoryview(tokenizer_blob.write(data)), "file")
    assert found == replace(data, file="file")


@pytest.mark.parametrize("family", sorted(path.name for path in MODELS.iterdir() if path.is_dir()))
def test_every_family_s_vocabulary_survives(family: str) -> None:
    data = checkpoint.open(MODELS / family).tokenizer
    if data is None:
        pytest.skip("this model has no vocabulary")
    found = tokenizer_blob.read(memoryview(tokenizer_blob.write(data)), data.file)
    for name in ("tokens", "merges", "scores", "types"):
        assert list(getattr(found, name)) == list(getattr(data, name))
    for name in ("model", "pre", "splits", "bos", "eos", "extra_eog", "add_bos", "prefix_once"):
        assert getattr(found, name) == getattr(data, name)


def test_a_token_that_is_no_text_is_refused() -> None:
    with pytest.raises(FormatError, match="it must be Unicode text"):
        tokenizer_blob.write(replace(BPE, tokens=["a", "\ud800"]))


def test_a_kind_that_has_no_name_stays_none() -> None:
    odd = replace(BPE, types=[1, 7, -1, 300, 1, 1, 1])
    found = tokenizer_blob.read(memoryview(tokenizer_blob.write(odd)), "file")
    assert found.types == [1, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens": []}, "tokens is 'none'|types"),
        ({"tokens": ["a", 1]}, "tokens is 'list'; a list of texts"),
        ({"merges": [None]}, "merges"),
        ({"types": b"\1"}, "types is 'bytes'; 7 numbers"),
        ({"types": b"\7" * 7}, "types is 7"),
        ({"scores": bytes(8)}, "scores"),
        ({"scores": b"\xff" * 56}, "scores is 'nan or inf'"),
        ({"bos": 7}, "special token is 7; ids below 7"),
        ({"rstrip": [-1]}, "special token is -1"),
        ({"model": 3}, "tokenizer.model"),
        ({"model": "llama", "merges": []}, "scores is 'none'"),
        ({"normal_form": "NFX"}, "normal_form"),
    ],
)
def test_anything_else_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    content = msgpack.unpackb(tokenizer_blob.write(BPE), unicode_errors="surrogateescape")
    raw = msgpack.packb({**content, **change}, unicode_errors="surrogateescape")
    with pytest.raises(FormatError, match=said):
        tokenizer_blob.read(memoryview(raw), "file")


@pytest.mark.parametrize("raw", [b"", b"\xc0", b"\x90", b"\x80", b"\x91" * 5000, b"\xdd\xff\xff"])
def test_what_is_no_vocabulary_is_refused(raw: bytes) -> None:
    with pytest.raises(FormatError):
        tokenizer_blob.read(memoryview(raw), "file")
