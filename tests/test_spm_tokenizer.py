from __future__ import annotations

import functools
import random
import re
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.merges import merge
from edgellm.tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    Tokenizer,
    TokenizerData,
    load_tokenizer,
    make,
)

DATA = Path(__file__).parent / "data" / "tokenizers"
PIECES = ["▁", *"abc", "ab", "bc", "▁a", "▁▁", "abc", "b▁", "▁b"]
SPECIAL = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL}
BYTES = {f"<0x{byte:02X}>": BYTE for byte in range(256)}
WORDS = [
    "Hello",
    " ",
    "  ",
    "\n",
    "\t",
    "1234",
    "é",
    "e\u0301",
    "東京",
    "🦙",
    "!!",
    "\xa0",
    "a",
    "\x1c",
]


loaded = functools.cache(load_tokenizer)


def data(pieces: list[str], fallback: bool = True, **fields: object) -> TokenizerData:
    kinds = {**SPECIAL, **(BYTES if fallback else {}), **dict.fromkeys(pieces, NORMAL)}
    scores = [0.0] * (len(kinds) - len(pieces)) + [-float(i) for i in range(len(pieces))]
    settings: dict[str, object] = {"bos": 1, "eos": 2, "unk": 0, "scores": scores, **fields}
    return TokenizerData(
        model="llama",
        tokens=list(kinds),
        types=list(kinds.values()),
        **settings,  # type: ignore[arg-type]
    )


def small(pieces: list[str], fallback: bool = True, **fields: object) -> Tokenizer:
    return make(data(pieces, fallback, **fields))


def pieces(tokenizer: Tokenizer, text: str, parse_special: bool = False) -> list[str]:
    return [tokenizer.decode([i]) for i in tokenizer.encode(text, False, parse_special)]


@pytest.mark.parametrize("name", ["llama", "gemma"])
@given(text=st.text().filter(lambda text: "▁" not in text))
def test_every_text_comes_back(name: str, text: str) -> None:
    tokenizer = loaded(DATA / name)
    prefix = " " if name == "llama" and text else ""
    assert tokenizer.decode(tokenizer.encode(text)) == prefix + text


def test_the_highest_score_is_merged_first() -> None:
    assert pieces(small(["▁", "a", "b", "c", "bc", "ab"]), "abc") == [" ", "a", "bc"]
    assert pieces(small(["▁", "a", "b", "c", "ab", "bc"]), "abc") == [" ", "ab", "c"]


def test_characters_that_are_no_piece_become_bytes() -> None:
    tokenizer = small(["▁"])
    assert tokenizer.encode("é") == [3 + 256, 3 + 0xC3, 3 + 0xA9]
    assert small(["▁"], fallback=False).encode("é") == [3, 0, 0]


def test_a_space_goes_before_the_text_and_after_special_tokens() -> None:
    tokenizer = small(PIECES)
    assert pieces(tokenizer, "c</s>c</s> c", True) == [
        " ",
        "c",
        "</s>",
        " ",
        "c",
        "</s>",
        "  ",
        "c",
    ]
    assert tokenizer.encode("") == []
    without = small(PIECES, add_space_prefix=False)
    assert pieces(without, "c</s>c", True) == ["c", "</s>", "c"]


def test_the_space_prefix_may_come_once_or_only_where_lacking() -> None:
    once = small(PIECES, prefix_once=True)
    assert pieces(once, "c</s>c", True) == [" ", "c", "</s>", "c"]
    assert pieces(once, "</s>c", True) == ["</s>", "c"]
    lacking = small(PIECES, prefix_lacking=True)
    assert pieces(lacking, " c</s>c", True) == [" ", "c", "</s>", " ", "c"]


def test_texts_begin_with_bos_unless_the_file_says_otherwise() -> None:
    assert small(PIECES).encode("", add_special=True) == [1]
    assert small(PIECES, add_bos=False).encode("", add_special=True) == []


@pytest.mark.parametrize("text", ["<s>", "</s>", "<unk>", "<0x41>"])
def test_no_merge_spells_a_control_or_byte_token(text: str) -> None:
    parts = [text[:end] for end in range(1, len(text))] + list(text[1:])
    tokenizer = small(["▁", *dict.fromkeys(parts)], add_space_prefix=False)
    ids = tokenizer.encode(text)
    assert len(ids) > 1
    assert tokenizer.decode(ids) == text


@given(st.text(" abc", max_size=30), st.booleans())
def test_words_are_cut_only_where_no_piece_reaches_across(text: str, crossing: bool) -> None:
    used = PIECES if crossing else [piece for piece in PIECES if piece != "b▁"]
    found = data(used, add_space_prefix=False)
    ranks = {piece: rank for rank, piece in enumerate(used)}
    expected = merge(list(text.replace(" ", "▁")), ranks, "")
    ids = make(found).encode(text)
    assert [found.tokens[i] for i in ids] == expected


@given(st.text(" abc", max_size=30))
def test_merges_may_stand_in_for_scores(text: str) -> None:
    used = ["ab", "bc", "▁a"]
    by_score = data([*"▁abc", *used], add_space_prefix=False)
    by_merges = data(
        [*"▁abc", *used], add_space_prefix=False, scores=(), merges=["a b", "b c", "▁ a"]
    )
    assert make(by_score).encode(text) == make(by_merges).encode(text)


def test_long_texts_take_no_quadratic_time() -> None:
    tokenizer = load_tokenizer(DATA / "llama")
    began = process_time()
    for text in ("a" * 100_000, "the" * 30_000, "🦙" * 25_000, " " * 100_000, "the end " * 12_000):
        assert tokenizer.decode(tokenizer.encode(text)) == " " + text
    assert process_time() - began < 15


def test_phi_3_swallows_white_space_after_its_tokens(shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "vocab" / "ggml-vocab-phi-3.gguf")
    ids = tokenizer.encode("<|user|>\n hi<|end|>\n", parse_special=True)
    assert ids == tokenizer.encode("<|user|>hi<|end|>", parse_special=True)


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_as_the_sentencepiece_library_has_it(name: str) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    file = str(DATA / name / "tokenizer.model")
    theirs = sentencepiece.SentencePieceProcessor(model_file=file)
    ours = load_tokenizer(DATA / name)
    rng = random.Random(3)
    for _ in range(500):
        text = "".join(rng.choice(WORDS) for _ in range(rng.randrange(20)))
        assert ours.encode(text) == theirs.encode(text), repr(text)


def test_words_are_cut_before_spaces() -> None:
    tokenizer = load_tokenizer(DATA / "llama")
    words = list(tokenizer.words("the end\n  of ", True, True))  # type: ignore[attr-defined]
    assert words == ["▁the", "▁end\n", "▁▁of", "▁"]
    assert re.sub("▁", " ", "".join(words)) == " the end\n  of "
