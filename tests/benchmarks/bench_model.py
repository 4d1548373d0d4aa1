"""Hot path: one step of the executor; with a model this small it is the overhead per token."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import edgellm


@pytest.fixture(scope="module")
def model(tiny: Path) -> edgellm.Model:
    return edgellm.load(tiny, context=64)


def test_decode_one_token(benchmark: BenchmarkFixture, model: edgellm.Model) -> None:
    model.executor.prefill([1] * 32, 0, 0)
    benchmark(model.executor.step, [1], [0], [32])


@pytest.mark.parametrize("tokens", [8, 32, 64])
def test_prefill(benchmark: BenchmarkFixture, model: edgellm.Model, tokens: int) -> None:
    benchmark(model.executor.prefill, [1] * tokens, 0, 0)


def test_load(benchmark: BenchmarkFixture, tiny: Path) -> None:
    benchmark.pedantic(lambda: edgellm.load(tiny, context=64).close(), rounds=3, warmup_rounds=1)
