"""AdamW against its formulas, and the course of the rate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.training.device_course import SCHEDULE
from edgellm.training.schedule import Schedule

pytestmark = pytest.mark.usefixtures("cpu")


def test_adamw_follows_its_formulas() -> None:
    from tinygrad import Tensor

    from edgellm.training.memory import read, write
    from edgellm.training.network import Part
    from edgellm.training.optimiser import AdamW, Rule

    rng = np.random.default_rng(0)
    start = {"a": rng.standard_normal((3, 4)), "b": rng.standard_normal(4)}
    start = {name: values.astype(np.float32) for name, values in start.items()}
    learnt = {name: Tensor(values).realize() for name, values in start.items()}
    gradients = {name: Tensor(np.zeros_like(v)).realize() for name, v in start.items()}
    rule = Rule(decay=0.1)
    optimiser = AdamW([Part({}, {}, learnt, gradients, {})], rule)
    weights = {name: values.astype(float) for name, values in start.items()}
    moments = {name: [np.zeros(v.shape), np.zeros(v.shape)] for name, v in start.items()}
    for step in range(1, 5):
        slopes = {
            name: rng.standard_normal(v.shape).astype(np.float32) for name, v in start.items()
        }
        for name, slope in slopes.items():
            write(gradients[name], slope)
        optimiser.step(0.05)
        norm = np.sqrt(sum((slope.astype(float) ** 2).sum() for slope in slopes.values()))
        for name, slope in slopes.items():
            g = slope.astype(float) * min(1.0, 1 / (norm + 1e-6))
            mean, square = moments[name]
            mean[:] = 0.9 * mean + 0.1 * g
            square[:] = 0.999 * square + 0.001 * g * g
            move = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
            decay = 0.1 * weights[name] if name == "a" else 0.0
            weights[name] -= 0.05 * (move + decay)
            np.testing.assert_allclose(read(learnt[name]), weights[name], rtol=1e-4, atol=1e-5)
            assert not read(gradients[name]).any()  # ready for the next step


def test_what_is_kept_stays_and_all_else_goes_its_way() -> None:
    """Two parts of the same names and shapes, one of which keeps some of a matrix and of a vector:
    the rest moves as if there were no gradient of what is kept."""
    from tinygrad import Tensor

    from edgellm.training.memory import read, write
    from edgellm.training.network import Part
    from edgellm.training.optimiser import AdamW, Rule

    rng = np.random.default_rng(0)
    shapes = {"matrix": (3, 4), "vector": (4,), "whole": (2, 3)}
    kept = {"matrix": rng.random((3, 4)) < 0.5, "vector": np.array([True, False, False, True])}
    start = [
        {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        for _ in range(2)
    ]

    def part(values: dict[str, np.ndarray], free: dict[str, np.ndarray]) -> Part:
        nothing = {name: np.zeros_like(one) for name, one in values.items()}
        learnt, gradients, changing = (
            {name: Tensor(one).realize() for name, one in some.items()}
            for some in (values, nothing, free)
        )
        return Part({}, {}, learnt, gradients, changing)

    free = {name: (~values).astype(np.float32) for name, values in kept.items()}
    keeping = [part(start[0], {}), part(start[1], free)]
    plain = [part(values, {}) for values in start]
    optimisers = [AdamW(parts, Rule(decay=0.1)) for parts in (keeping, plain)]
    for _ in range(4):
        for index in range(2):
            for name, shape in shapes.items():
                slope = 3 * rng.standard_normal(shape).astype(np.float32)
                write(keeping[index].gradients[name], slope)
                if index and name in kept:
                    slope = np.where(kept[name], 0, slope).astype(np.float32)
                write(plain[index].gradients[name], slope)
        for optimiser in optimisers:
            optimiser.step(0.05)
        assert not any(read(one).any() for each in keeping for one in each.gradients.values())
    for index in range(2):
        for name in shapes:
            found, wanted, first = (
                read(keeping[index].learnt[name]), read(plain[index].learnt[name]),
                start[index][name],
            )  # fmt: skip
            stays = kept[name] if index and name in kept else np.zeros(first.shape, bool)
            assert np.array_equal(found[stays], first[stays])
            assert (found[~stays] != first[~stays]).all()
            np.testing.assert_allclose(found[~stays], wanted[~stays], rtol=1e-6)


@given(st.integers(1, 2000), st.floats(0, 1), st.floats(0, 0.9), st.floats(0, 0.5))
def test_the_rate_rises_stays_and_falls(
    steps: int, warm_up: float, level: float, floor: float
) -> None:
    schedule = Schedule(steps, 1.0, round(warm_up * steps), level, floor)
    rates = [schedule.rate(step) for step in range(steps)]
    assert all(0 <= rate <= 1 for rate in rates)
    rising, falling = rates[: schedule.warm_up], rates[schedule.warm_up :]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert all(rate >= floor - 1e-9 for rate in falling)


def test_the_default_models_rate() -> None:
    steps, warm_up = SCHEDULE.steps, SCHEDULE.warm_up
    rates = [SCHEDULE.rate(step) for step in range(steps)]
    assert rates[0] == pytest.approx(SCHEDULE.peak / warm_up)
    assert set(rates[warm_up : round(SCHEDULE.level * steps)]) == {SCHEDULE.peak}
    assert 0 < rates[-1] < 0.05 * SCHEDULE.peak
