from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from time import process_time

from hypothesis import given
from hypothesis import strategies as st

from edgellm.merges import merge


def naive(parts: list[str], ranks: Mapping[str, int], joint: str) -> list[str]:
    """The definition: look for the best pair, merge its first occurrence, start again."""
    while True:
        pairs = [ranks.get(a + joint + b) for a, b in pairwise(parts)]
        found = [(rank, i) for i, rank in enumerate(pairs) if rank is not None]
        if not found:
            return parts
        _, i = min(found)
        parts = [*parts[:i], parts[i] + parts[i + 1], *parts[i + 2 :]]


WORDS = st.text("abc", max_size=30)
PIECES = st.lists(st.text("abc", min_size=2, max_size=5), unique=True, max_size=12)


@given(WORDS, PIECES, st.data())
def test_pieces_merge_as_defined(word: str, pieces: list[str], data: st.DataObject) -> None:
    ranks = {piece: data.draw(st.integers(0, 5)) for piece in pieces}
    assert merge(list(word), ranks, "") == naive(list(word), ranks, "")


@given(WORDS, PIECES, st.data())
def test_pairs_merge_as_defined(word: str, pieces: list[str], data: st.DataObject) -> None:
    ranks = {}
    for piece in pieces:
        cut = data.draw(st.integers(1, len(piece) - 1))
        ranks[f"{piece[:cut]} {piece[cut:]}"] = len(ranks)
    assert merge(list(word), ranks, " ") == naive(list(word), ranks, " ")


def test_nothing_to_merge() -> None:
    assert merge([], {"ab": 1}, "") == []
    assert merge(["a"], {"ab": 1}, "") == ["a"]


def test_a_long_word_takes_no_quadratic_time() -> None:
    ranks = {"a" * length: length for length in (2, 4, 8, 16)}

    def seconds(count: int) -> float:
        began = process_time()
        merge(["a"] * count, ranks, "")
        return process_time() - began

    assert seconds(160_000) < 40 * max(seconds(10_000), 0.01)
