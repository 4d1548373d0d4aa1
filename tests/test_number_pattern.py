"""Patterns of numbers: exactly those that the bounds and steps allow, compared one by one."""

from __future__ import annotations

from decimal import Decimal

import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm.tools.number_pattern import pattern


@settings(max_examples=200)
@given(
    st.integers(-300, 300),
    st.integers(0, 400),
    st.sampled_from([None, None, 1, 2, 3, 5, 7, 10, 20, 25, 100, 2.5]),
)
def test_a_pattern_spells_exactly_the_whole_numbers(
    low: int, more: int, step: float | None
) -> None:
    expected = {str(n) for n in range(low, low + more + 1) if not step or n % step == 0}
    factor = None if step is None else Decimal(str(step))
    texts = {f"{sign}{zeros}{n}" for sign in ("", "-") for zeros in ("", "0") for n in range(800)}
    try:
        found = regex.compile(pattern(True, Decimal(low), Decimal(low + more), factor))
    except ValueError:
        assert not expected
    else:
        assert {text for text in texts if found.fullmatch(text)} == expected


@settings(max_examples=100)
@given(
    st.integers(-300, 300),
    st.integers(0, 400),
    st.sampled_from([None, "0.5", "0.25", "0.1", "0.01", "0.05", "2", "0.03"]),
)
def test_a_pattern_spells_exactly_the_decimals(low: int, more: int, step: str | None) -> None:
    bounds = Decimal(low).scaleb(-2), Decimal(low + more).scaleb(-2)
    places = range(3) if step is None else range(len(step.partition(".")[2]) + 1)
    hundredths = [Decimal(n).scaleb(-2) for n in range(-800, 800)]
    texts = {f"{n:.{place}f}" for n in hundredths for place in range(3) if n == round(n, place)}
    texts -= {text for text in texts if text.startswith("-") and not Decimal(text)}
    expected = {
        text
        for text in texts
        if low <= Decimal(text) * 100 <= low + more
        and (not step or Decimal(text) % Decimal(step) == 0)
        and len(text.partition(".")[2]) in places
    }
    try:
        factor = None if step is None else Decimal(step)
        found = regex.compile(pattern(False, *bounds, factor))
    except ValueError:
        assert not expected
    else:
        assert {text for text in texts if found.fullmatch(text)} == expected
