from __future__ import annotations

import dataclasses
import functools
import json
import random
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.errors import UnsupportedError
from edgellm.tokenizer import Tokenizer, TokenizerData, load_tokenizer, make

DATA = Path(__file__).parent / "data" / "tokenizers"
NAMES = ["gpt-2", "falcon", "qwen2", "llama-bpe", "smollm"]
LETTERS = [*"abcdef", "Ġ", "Ã", "©"]
WORDS = ["Hello", "I'll", "IT'S", " ", "  ", "\n", "\r\n", "\t", "1234", "½", "é", "É", "e\u0301"]
WORDS += ["東京", "안녕", "🦙", "!!", "--", "a_b", "camelCase", "\xa0", "\u3000", "\x1c", "\x85"]


loaded = functools.cache(load_tokenizer)


def small(merges: list[str], **fields: object) -> Tokenizer:
    tokens = LETTERS + [merge.replace(" ", "") for merge in merges]
    data = {"model": "gpt2", "pre": "gpt-2", "tokens": tokens, "merges": merges, **fields}
    return make(TokenizerData(**data))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
@given(text=st.text())
def test_every_text_comes_back(name: str, text: str) -> None:
    tokenizer = loaded(DATA / name)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode(text, parse_special=True)) == text


def test_bytes_are_merged_in_the_order_of_the_merges() -> None:
    tokenizer = small(["b c", "a b", "a bc", "Ã ©"])
    assert [tokenizer.piece(i) for i in tokenizer.encode("abc abé")] == [
        b"abc",
        b" ",
        b"ab",
        "é".encode(),
    ]


def test_merges_do_not_cross_words() -> None:
    tokenizer = small(["b Ġ", "Ġ a"])
    assert [tokenizer.piece(i) for i in tokenizer.encode("ab a")] == [b"a", b"b", b" a"]


def test_a_part_that_is_no_token_is_taken_apart() -> None:
    tokenizer = small(["a b"], tokens=LETTERS)
    assert tokenizer.encode("ab") == [0, 1]


def test_bytes_that_no_token_has_become_unk() -> None:
    assert small([], unk=5).encode("a~") == [0, 5]
    assert small([]).encode("a~") == [0]


def test_whole_words_may_stay_whole() -> None:
    def ids(**fields: object) -> list[int]:
        return small(["b c"], tokens=[*LETTERS, "abc"], **fields).encode("abc")

    assert ids() == [0, 1, 2]
    assert ids(pre="llama-bpe") == ids(ignore_merges=True) == [len(LETTERS)]
    assert ids(pre="llama-bpe", ignore_merges=False) == [0, 1, 2]


@pytest.mark.parametrize(("pre", "begins"), [("llama-bpe", True), ("gpt-2", False)])
def test_the_pre_tokenizer_says_whether_texts_begin_with_bos(pre: str, begins: bool) -> None:
    assert small([], pre=pre, bos=3).encode("a", add_special=True) == ([3, 0] if begins else [0])
    assert small([], pre=pre, bos=3, add_bos=not begins).encode("", True) == [3][: not begins]
    assert small([], pre=pre).encode("a", add_special=True) == [0]


def test_a_space_prefix_goes_where_there_is_no_space() -> None:
    tokenizer = small([], add_space_prefix=True)
    assert tokenizer.encode("a") == tokenizer.encode(" a") == [6, 0]


def test_text_is_normalised_between_special_tokens() -> None:
    assert small(["Ã ©"], normal_form="NFC").encode("e\u0301") == [len(LETTERS)]


def test_many_marks_are_normalised_in_time() -> None:
    tokenizer = loaded(DATA / "gpt-2")
    normalising = make(dataclasses.replace(tokenizer.data, normal_form="NFC"))  # type: ignore[attr-defined]
    text = "e\u0301\u0327" + "\u0301\u0327" * 20_000 + "e\u0301"
    began = process_time()
    found = normalising.decode(normalising.encode(text))
    assert process_time() - began < 5
    assert found.startswith("\u0229\u0327")
    assert found.endswith("é")


def test_an_unknown_pre_tokenizer_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnsupportedError, match=r"pre is 'klingon'.*command-r.*qwen2"):
        small([], pre="klingon")


def test_absent_and_default_pre_tokenizers_are_the_same() -> None:
    text = "ab 12345!"
    assert small([], pre="").encode(text) == small([], pre="default").encode(text)


def test_long_words_take_no_quadratic_time() -> None:
    tokenizer = load_tokenizer(DATA / "gpt-2")
    began = process_time()
    for text in ("a" * 100_000, "the" * 30_000, "1" * 100_000, "🦙" * 25_000, " " * 100_000):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert process_time() - began < 15


def test_old_merges_win_over_later_ones_of_the_same_pair() -> None:
    assert small(["a b", "b c", "a b"], tokens=[*LETTERS, "ab", "bc"]).encode("abc") == [9, 2]


@pytest.mark.parametrize("name", NAMES)
def test_as_the_tokenizers_library_has_it(name: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_file(str(DATA / name / "tokenizer.json"))
    ours = load_tokenizer(DATA / name)
    rng = random.Random(1)
    for _ in range(500):
        text = "".join(rng.choice([*WORDS, "<|im_end|>"]) for _ in range(rng.randrange(20)))
        assert ours.encode(text, parse_special=True) == theirs.encode(text).ids, repr(text)


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LEAD = r"[^\r\n\p{L}\p{N}]?"
PATTERNS = {
    "gpt-4o": rf"{LEAD}{UPPER}*{LOWER}+{CONTRACTION}?|{LEAD}{UPPER}+{LOWER}*{CONTRACTION}?"
    rf"|\p{{N}}{{1,3}}|{TAIL}",
    "tekken": rf"{LEAD}{UPPER}*{LOWER}+|{LEAD}{UPPER}+{LOWER}*|\p{{N}}|{TAIL}",
    "gpt-4": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
}


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_as_the_tokenizers_library_runs_them(name: str, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    settings = json.loads((DATA / "qwen2" / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": PATTERNS[name]}, "behavior": "Isolated"}
    steps = [{**split, "invert": False}, {**BYTE_LEVEL, "trim_offsets": True}]
    settings["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    assert isinstance(settings["model"]["merges"], list)
    rng = random.Random(2)
    for _ in range(500):
        text = "".join(rng.choice(WORDS) for _ in range(rng.randrange(20)))
        assert ours.encode(text) == theirs.encode(text).ids, repr(text)
