"""Hot path: all of it. Prefill and decoding of published shapes, as `edgellm bench` has them; the
tokens a second are in the benchmark's extra info."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import edgellm
from edgellm import shapes
from edgellm.bench.worker import decode, prefill

FILES = [("stories15m", "Q4_0"), ("smollm2-135m", "Q4_0"), ("smollm2-135m", "Q8_0")]
CONTEXT, CHATS = 2304, 4


@pytest.fixture(scope="module", params=FILES, ids="-".join)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[edgellm.Model]:
    path: Path = tmp_path_factory.mktemp("model") / "model.gguf"
    shapes.write_shape(*request.param, path)
    with edgellm.load(path, context=CONTEXT, slots=CHATS) as model:
        yield model


def measure(benchmark: BenchmarkFixture, run: Callable[[], None], tokens: int) -> None:
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    if benchmark.stats:
        benchmark.extra_info["tokens a second"] = tokens / benchmark.stats.stats.median


@pytest.mark.parametrize("prompt", [128, 512])
def test_prefill(benchmark: BenchmarkFixture, model: edgellm.Model, prompt: int) -> None:
    tokens = [1] * prompt
    measure(benchmark, lambda: prefill(model.executor, tokens, 0, 1), prompt)


@pytest.mark.parametrize("chats", [1, CHATS])
@pytest.mark.parametrize("depth", [0, 2048])
def test_decode(benchmark: BenchmarkFixture, model: edgellm.Model, depth: int, chats: int) -> None:
    if depth:
        prefill(model.executor, [1] * depth, 0, chats)
    tokens = [1] * 32
    measure(benchmark, lambda: decode(model.executor, tokens, depth, chats), 32 * chats)
