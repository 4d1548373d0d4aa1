"""Decoding on an OpenCL device beside tinygrad's own lowering of the same model on that device: the
plain Transformer over GGUF's blocks, dequantised in the graph. Tokens a second of either, and how
many times as fast ours is, are in the benchmark's extra info."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import edgellm
from edgellm import checkpoint, layout, quant, shapes
from edgellm.checkpoint import StoredTensor
from edgellm.executor import Executor
from edgellm.runtime import backend

SHAPES = ["stories15m", "smollm2-135m"]
CONTEXT, TOKENS, ROUNDS = 128, 8, 3

if backend("opencl", here=False).probe() is None:
    pytest.skip("there is no OpenCL device here", allow_module_level=True)


@pytest.fixture(params=SHAPES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    found = tmp_path / "model.gguf"
    shapes.write_shape(request.param, "Q4_0", found)
    return found


def stock_step(path: Path) -> Callable[[int, int], object]:
    """A token at a position to its logits, as tinygrad's JIT runs it on its OpenCL device."""
    from tinygrad import Tensor, TinyJit, UOp
    from tinygrad.helpers import DEV

    from edgellm.model import Transformer, empty_rows

    DEV.value = "CL"
    opened = checkpoint.open(path)
    weights = {
        name: dequantised(tensor)
        for name, tensor in opened.tensors.items()
        if name not in layout.TABLES
    }
    # Of the embedding one row is read, which no kernel of tinygrad's does without reading all.
    embedding = opened.tensors["token_embd.weight"].float32()
    transformer = Transformer(opened.config, weights, CONTEXT)
    states = [empty_rows(opened.config, layer, CONTEXT, 1) for layer in opened.config.layers]

    @TinyJit
    def step(x: Tensor, start: UOp) -> Tensor:
        for block, layer, rows in zip(
            transformer.blocks, opened.config.layers, states, strict=True
        ):
            x = transformer.block(block, layer, x, rows, 0, start)
        return transformer.logits(transformer.final(x)).realize()

    def run(token: int, position: int) -> object:
        start = UOp.variable("start", 0, CONTEXT - 1).bind(position)
        return step(Tensor(np.array(embedding[token][None, None])).realize(), start).numpy()

    return run


def dequantised(tensor: StoredTensor) -> object:
    """A tensor whose codes are on the device as in the file, and its values in a graph."""
    from tinygrad import Tensor

    if tensor.type == "F32":
        return Tensor(np.array(tensor.float32())).realize()
    kind = quant.TYPES[tensor.type]
    blocks = np.frombuffer(tensor.data, kind.dtype)  # type: ignore[attr-defined]
    # A device without half precision has no such scales; the bytes that are read hardly change.
    d = Tensor(blocks["d"].astype(np.float32)[:, None]).realize()
    codes = Tensor(np.array(blocks["qs"])).realize()
    if tensor.type == "Q4_0":
        codes = Tensor.cat(codes & 15, codes >> 4, dim=1).cast("int8") - 8
    return (d * codes).reshape(*tensor.shape)


def ours_step(executor: Executor) -> Callable[[int, int], object]:
    return lambda token, position: executor.step([token], [0], [position])


def seconds(step: Callable[[int, int], object], tokens: int) -> float:
    """Of the fastest token: what other processes take of the machine only adds."""
    taken = []
    for position in range(tokens):
        started = time.perf_counter()
        step(1, position)
        taken.append(time.perf_counter() - started)
    return min(taken)


@pytest.fixture
def ours(path: Path) -> Iterator[Callable[[int, int], object]]:
    with edgellm.load(path, context=CONTEXT, device="opencl") as model:
        yield ours_step(model.executor)


def test_decode(
    benchmark: BenchmarkFixture, path: Path, ours: Callable[[int, int], object]
) -> None:
    stock = stock_step(path)
    for step in (stock, ours):
        for position in range(3):  # compiled, captured
            step(1, position)
    found: dict[str, list[float]] = {"ours": [], "stock": []}
    for _ in range(ROUNDS):  # in turns
        found["stock"].append(seconds(stock, TOKENS))
        found["ours"].append(seconds(ours, 8 * TOKENS))  # which take about as long
    np.testing.assert_allclose(ours(5, TOKENS), stock(5, TOKENS).reshape(1, -1), atol=5e-3)  # type: ignore[attr-defined]
    best = {name: min(each) for name, each in found.items()}
    benchmark.extra_info |= {f"{name}, tokens a second": 1 / s for name, s in best.items()}
    benchmark.extra_info["times stock"] = best["stock"] / best["ours"]
    benchmark.pedantic(lambda: ours(1, 0), rounds=TOKENS)
