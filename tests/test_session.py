from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgellm.session import Session, common_prefix

TOKENS = st.lists(st.integers(0, 2), max_size=8)


@given(TOKENS, TOKENS)
def test_common_prefix_is_the_longest_shared_beginning(left: list[int], right: list[int]) -> None:
    length = common_prefix(left, right)
    assert left[:length] == right[:length]
    assert left[length : length + 1] != right[length : length + 1] or left == right


@given(TOKENS, TOKENS)
def test_common_prefix_of_an_extension_is_all_of_it(left: list[int], right: list[int]) -> None:
    assert common_prefix(left, left + right) == common_prefix(left + right, left) == len(left)


def test_a_new_session_holds_nothing() -> None:
    session = Session("a")
    assert (session.messages, session.slot, session.answering) == ([], None, False)
    assert session != Session("a")
