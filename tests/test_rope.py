"""Position tables against their formulas, written out plainly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.config import Rope, Yarn
from edgellm.rope import alibi_slopes, frequencies, rope_table


def test_a_plain_table_is_cosine_and_sine_of_position_times_frequency() -> None:
    table = rope_table(Rope(dim=8, theta=100.0), context=5, positions=7)
    assert table.shape == (7, 2, 4)
    for position in range(7):
        for i in range(4):
            angle = position * 100.0 ** (-2 * i / 8)
            assert table[position, 0, i] == pytest.approx(math.cos(angle), abs=1e-6)
            assert table[position, 1, i] == pytest.approx(math.sin(angle), abs=1e-6)


def test_far_positions_of_a_large_theta_keep_their_precision() -> None:
    rope = Rope(dim=64, theta=1e6)
    last = rope_table(rope, context=131072, positions=131072)[-1, 1]
    exact = [math.sin(131071 * 1e6 ** (-2 * i / 64)) for i in range(32)]
    np.testing.assert_allclose(last, exact, atol=1e-6)


def test_factors_and_scale_divide_and_magnitude_multiplies() -> None:
    rope = Rope(dim=4, theta=10.0, factors=(1.0, 5.0), scale=2.0, magnitude=3.0)
    np.testing.assert_allclose(frequencies(rope, 8), [0.5, 10**-0.5 / 10])
    assert rope_table(rope, 8, 1)[0].tolist() == [[3.0, 3.0], [0.0, 0.0]]


@pytest.mark.parametrize(("context", "divisor"), [(16, 2.0), (17, 4.0)])
def test_longrope_takes_its_long_factors_beyond_the_original_context(
    context: int, divisor: float
) -> None:
    rope = Rope(dim=2, factors=(2.0,), long_factors=(4.0,), original_context=16)
    assert frequencies(rope, context).tolist() == [1 / divisor]


def test_yarn_keeps_fast_frequencies_and_stretches_slow_ones() -> None:
    rope = Rope(dim=64, theta=10000.0, yarn=Yarn(factor=8.0, original_context=4096))
    plain = frequencies(Rope(dim=64, theta=10000.0), 1)
    turns = plain * 4096 / (2 * math.pi)  # within the original context
    stretched = plain / frequencies(rope, 1)
    np.testing.assert_allclose(stretched[turns > 40], 1.0)
    np.testing.assert_allclose(stretched[turns < 0.9], 8.0)
    assert np.all(np.diff(stretched) >= -1e-12)


@given(st.integers(1, 128))
def test_alibi_slopes_fall_within_zero_and_one(heads: int) -> None:
    slopes = alibi_slopes(heads)
    assert slopes.shape == (heads,)
    assert np.all((slopes > 0) & (slopes < 1))
    assert len(set(slopes.tolist())) == heads


def test_alibi_slopes_of_the_paper() -> None:
    assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    # Twelve heads: the eight of above, then every second one of sixteen.
    assert alibi_slopes(12)[8:].tolist() == pytest.approx([2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])
