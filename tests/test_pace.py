"""How many rows of prompts a step may have, by what steps took."""

from __future__ import annotations

import pytest

from edgellm.pace import ALONE_S, LEAST, STEPS, UNNOTICED_S, Pace


def settled(row_s: float, plain_s: float, decoding: int = 1, most: int = 128) -> int:
    """The limit after a while, where a step takes `plain_s` and `row_s` for each prompt row."""
    pace = Pace(1, most)
    pace.measure(decoding, 0, plain_s)
    for _ in range(20):
        limit = pace.beside if decoding else pace.alone
        pace.measure(decoding, limit.rows, plain_s + limit.rows * row_s)
    return (pace.beside if decoding else pace.alone).rows


@pytest.mark.parametrize("plain_s", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("row_s", [0.001, 0.01, 0.03])
def test_nobody_waits_much_longer_than_for_a_few_tokens(plain_s: float, row_s: float) -> None:
    rows = settled(row_s, plain_s)
    allowed = max(STEPS * plain_s, UNNOTICED_S)
    # One step in a while may be twice as long, to find out.
    assert rows == LEAST or plain_s + rows * row_s <= 2 * allowed
    assert rows == 128 or plain_s + 4 * rows * row_s > allowed


def test_a_prompt_alone_takes_steps_of_about_a_second_at_most() -> None:
    assert settled(0.001, 0.01, decoding=0) == 128
    assert settled(0.05, 0.01, decoding=0) * 0.05 <= ALONE_S
    assert settled(10.0, 0.01, decoding=0) == LEAST


def test_limits_stay_within_what_the_executor_takes() -> None:
    pace = Pace(32, 36)
    for seconds in (0.1, 9.0, 9.0, 9.0, 0.1, 0.1):
        pace.measure(1, pace.beside.rows, seconds)
        pace.measure(1, 0, 0.1)
        assert 32 <= pace.beside.rows <= 36
    assert Pace(1, 5).alone.rows == Pace(1, 5).beside.rows == 5


def test_steps_of_unknown_ordinary_length_change_nothing() -> None:
    pace = Pace(1, 128)
    pace.measure(3, 32, 100.0)
    assert pace.beside.rows == 32
