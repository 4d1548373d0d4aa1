"""TextStream: stop strings, end tokens and whole characters, however a text is cut into tokens."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from letters import Letters

from edgellm.errors import UsageError
from edgellm.text_stream import TextStream

PIECES = [bytes([byte]) for byte in range(256)]


def emitted(pieces: list[bytes], stop: list[str]) -> tuple[list[str], bool]:
    stream = TextStream(Letters([*PIECES, *pieces]), stop)
    texts = [stream.push(256 + i) for i in range(len(pieces))]
    return [*texts, stream.flush()], stream.stopped


def before_stop(text: str, stop: list[str]) -> str:
    return text[: min((at for s in stop if (at := text.find(s)) >= 0), default=len(text))]


@given(
    st.text("ab\nüß€𝄞", max_size=40),
    st.lists(st.text("abü𝄞\n", min_size=1, max_size=5), max_size=4),
    st.lists(st.integers(0, 160), max_size=30),
)
@example("ab", ["b", "abc"], [1])
@example("abc", ["b", "abc"], [1, 2])
@example("aab", ["ab"], [2])
def test_text_before_the_first_stop_string(text: str, stop: list[str], cuts: list[int]) -> None:
    data = text.encode()
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(places)]
    texts, stopped = emitted(pieces, stop)
    assert "".join(texts) == before_stop(text, stop)
    assert stopped == any(s in text for s in stop)
    assert "\ufffd" not in "".join(texts)  # no character was split


@given(st.lists(st.binary(max_size=4), max_size=10))
def test_bytes_that_are_not_text_become_replacement_characters(pieces: list[bytes]) -> None:
    texts, _ = emitted(pieces, [])
    assert "".join(texts) == b"".join(pieces).decode(errors="replace")


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    texts, stopped = emitted([b"one ", b"#", b"# two #", b"##", b" three"], ["###"])
    assert texts == ["one ", "", "## two ", "", "", ""]
    assert stopped


def test_end_tokens_stop_and_release_what_was_held_back() -> None:
    stream = TextStream(Letters(PIECES, eog=frozenset({256}), end=256), ["abc"])
    assert [stream.push(token) for token in (*b"xab", 256, *b"c")] == ["x", "", "", "ab", ""]
    assert stream.stopped
    assert stream.flush() == ""


def test_a_stop_string_may_be_a_control_token() -> None:
    stream = TextStream(Letters(PIECES, user=256), ["<user>"])
    assert [stream.push(token) for token in (*b"hi", 256)] == ["h", "i", ""]
    assert stream.stopped


def test_which_stop_string_it_was_is_told() -> None:
    letters = Letters([b"a", b"b", b"c"], eog=frozenset({3}), end=3, mark=4)
    stops = ["bc", "b", "<mark>"]
    for tokens, stop in (([0, 1, 2], "b"), ([0, 4], "<mark>"), ([0, 3], None), ([1, 4], "b")):
        stream = TextStream(letters, stops)
        for token in tokens:
            stream.push(token)
        assert (stream.stopped, stream.stop) == (True, stop)
    stream = TextStream(letters, stops)
    stream.push(0)
    assert (stream.stopped, stream.stop) == (False, None)


def test_stop_strings_are_checked() -> None:
    for wrong in ("text", [""], [3]):
        with pytest.raises(UsageError, match="a list of non-empty texts"):
            TextStream(Letters(PIECES), wrong)  # type: ignore[arg-type]
