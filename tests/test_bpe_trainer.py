"""A trained vocabulary covers every text, and merges what is common first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgellm import tokenizer
from edgellm.training import bpe_trainer

TEXTS = ["the lamp is on", "the lamp is off", "the light is on", "set it to 21 degrees"] * 3
DATA = bpe_trainer.train(TEXTS, 300, ["<|im_end|>", "<|im_start|>"])
READER = tokenizer.make(DATA)


@given(st.text(max_size=60))
def test_every_text_survives(text: str) -> None:
    assert READER.decode(READER.encode(text)) == text


def test_the_commonest_pair_is_merged_first() -> None:
    data = bpe_trainer.train(["ab ab ab cd cd"], 260)
    assert data.merges[0] == "a b"


def test_size_and_controls() -> None:
    assert len(DATA.tokens) == len(set(DATA.tokens)) <= 300
    assert len(DATA.tokens) == 2 + 256 + len(DATA.merges)
    assert DATA.tokens[DATA.eos or 0] == "<|im_end|>"
    assert READER.encode("<|im_start|>", parse_special=True) == [1]
    assert READER.encode("<|im_start|>") != [1]


def test_digits_stay_single() -> None:
    data = bpe_trainer.train(["12 1212 12 1212 12"] * 5, 400)
    digits = [token for token in data.tokens if any(c.isdigit() and c.isascii() for c in token)]
    assert max(map(len, digits)) == 1


def test_common_words_become_one_piece() -> None:
    assert len(READER.encode(" lamp")) == 1


def test_a_word_has_the_same_pieces_after_a_space_and_after_a_quote() -> None:
    texts = ['water the roses, "roses"|"tomatoes"', "water the tomatoes", "pick roses"] * 3
    reader = tokenizer.make(bpe_trainer.train(texts, 320))

    def pieces(text: str) -> list[bytes]:
        return [reader.piece(token).strip() for token in reader.encode(text)]

    for word in ("roses", "tomatoes", "water", "rosettes"):
        assert [piece for piece in pieces(f" {word}") if piece] == pieces(word)


def test_training_is_repeatable() -> None:
    assert bpe_trainer.train(TEXTS, 300, ["<|im_end|>", "<|im_start|>"]) == DATA


def test_it_stops_where_nothing_repeats() -> None:
    assert not bpe_trainer.train(["abc"], 1000).merges


def test_marks_are_tokens_wherever_they_stand() -> None:
    data = bpe_trainer.train(TEXTS, 301, ["<|im_end|>", "<|im_start|>"], ["[[call]]"])
    assert data.merges == DATA.merges
    assert data.tokens == (*DATA.tokens, "[[call]]")
    reader = tokenizer.make(data)
    mark = len(DATA.tokens)
    assert reader.encode("set[[call]]it") == [*reader.encode("set"), mark, *reader.encode("it")]
    assert reader.decode(reader.encode("a [[call]]")) == "a [[call]]"
