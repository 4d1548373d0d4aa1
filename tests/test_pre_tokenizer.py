from __future__ import annotations

from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm.pre_tokenizer import PRE_TOKENIZERS, STEPS, named_step, words

TEXTS = st.text() | st.text(" \n\r\tabAB1'²é\x1c\u3000!_東", max_size=40)


@pytest.mark.parametrize("steps", sorted(set(PRE_TOKENIZERS.values())), ids="+".join)
@given(text=TEXTS)
@settings(max_examples=40)
def test_words_join_to_the_text(steps: tuple[str, ...], text: str) -> None:
    found = words(text, steps)
    assert "".join(found) == text
    assert "" not in found


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("gpt-2", "I'll say  it's 1234!\n\n x", "I|'ll| say| | it|'s| 1234|!|\n\n| x"),
        ("smollm", "a 123", "a| |1|2|3"),
        ("falcon", "a 12345, b", "a| |123|45|,| b"),
        ("default", "x 12345", "x| |123|45"),
        ("llama-bpe", "DON'T 12345\n\n  x", "DON|'T| |123|45|\n\n| | x"),
        ("qwen2", "a 123", "a| |1|2|3"),
        ("gpt-4o", "HTTPServer's oneTwo", "HTTPServer's| one|Two"),
        ("tekken", "oneTwo's", "one|Two|'s"),
        ("deepseek-llm", "ab 東京 12\n", "ab| |東京| |12|\n"),
        ("deepseek-coder", "ab 12\n", "ab| |1|2|\n"),
        ("deepseek-v3", "ab 1234かな", "ab| |123|4|かな"),
        ("bloom", "ab, cd.", "ab|,| cd|."),
        ("viking", "ab 12", "ab| |1|2"),
    ],
)
def test_words_of_each_family(name: str, text: str, expected: str) -> None:
    assert words(text, PRE_TOKENIZERS[name]) == expected.split("|")


def test_separators_that_unicode_does_not_count_as_white_space() -> None:
    assert words("a\x1c \x85b", ["gpt-2"]) == ["a", "\x1c", " ", "\x85", "b"]


@pytest.mark.parametrize("step", sorted(STEPS))
def test_no_step_takes_quadratic_time(step: str) -> None:
    runs = ["a", "A", "é", " ", "\n", "1", "!", "'", "aB", " \n", "'s", "\u0301", "東"]
    began = process_time()
    for run in runs:
        text = run * 20_000 + "x"
        assert "".join(words(text, [step])) == text
    assert process_time() - began < 10


def test_known_patterns_have_names() -> None:
    gpt_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    assert named_step(gpt_2) == "gpt-2"
    assert named_step("(a+)+$") is None
