"""AdamW against its formulas, and the course of the rate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    optimiser = AdamW([Part({}, {}, learnt, gradients)], rule)
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
    schedule = Schedule(1000, 1.0, 200, 0.6, 0.02)
    rates = [schedule.rate(step) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 200)
    assert set(rates[200:600]) == {1.0}
    assert 0 < rates[-1] < 0.05
