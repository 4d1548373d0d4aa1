"""The step of every family, captured as data."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from edgellm import checkpoint, layout
from edgellm.graph import StepGraph
from edgellm.runtime import default_model

MODELS = Path(__file__).parent / "data" / "models"
FAMILIES = sorted(path.name for path in MODELS.iterdir() if path.is_dir())
KERNELS = {
    "attend", "attend_merge", "conv_store", "convolve", "embed", "gate", "linear", "norm",
    "quantise", "rotate", "store",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _device(cpu: object) -> None:
    """tinygrad set up for the CPU, as for other tests, before it is imported."""


def captured(name: str, form: str = "F32", path: Path | None = None, **options: Any) -> StepGraph:
    from edgellm.capture import Weight, capture

    folder = MODELS / name
    opened = checkpoint.open(path or next(folder.glob("*.gguf"), folder))
    weights = {}
    for key, tensor in opened.tensors.items():
        if key not in layout.TABLES:
            matrix = len(tensor.shape) == 2 and "shortconv.conv" not in key and "norm" not in key
            weights[key] = Weight(tuple(tensor.shape), form if matrix else None)
    return capture(opened.config, weights, **options)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_becomes_kernels_and_row_functions(name: str) -> None:
    graph = captured(name)
    rows = {function.name: function for function in graph.functions}
    for call in (*graph.body, *graph.head):
        assert call.kernel in KERNELS or call.kernel in rows
        for argument in call.arguments:
            if argument is not None:
                buffer = graph.buffers[argument.buffer]
                if buffer.role == "row":
                    assert 0 <= argument.offset < buffer.nbytes
                else:
                    assert argument.offset == 0
        if call.kernel in rows:
            assert len(call.arguments) == rows[call.kernel].arguments
    for function in graph.functions:
        assert re.search(rf"void {function.name}\(", function.source)


def test_a_llama_layer_is_kernel_calls_and_two_sums() -> None:
    graph = captured("llama")
    layers = sum(buffer.role == "state" for buffer in graph.buffers)
    counts = Counter(call.kernel for call in graph.body)
    assert counts.pop("embed") == 1
    per_layer = {kernel: count / layers for kernel, count in counts.items()}
    assert per_layer == {
        "norm": 2, "linear": 4, "rotate": 2, "store": 1, "attend": 1, "attend_merge": 1,
        "gate": 1, "row_0": 2,
    }  # fmt: skip
    assert [call.kernel for call in graph.head] == ["norm", "linear"]


def test_matrices_that_read_the_same_row_share_a_call() -> None:
    graph = captured("llama")
    first = next(call for call in graph.body if call.kernel == "linear")
    names = [graph.buffers[each.buffer].name for each in first.arguments[2::2] if each]
    assert names == [f"blk.0.attn_{part}.weight" for part in "qkv"]


@pytest.mark.parametrize(("form", "codes"), [("Q8_0", True), ("F16", False)])
def test_rows_are_quantised_only_for_integer_weights(form: str, codes: bool) -> None:
    graph = captured("built-in", form, default_model())
    offered = [call.arguments[1] for call in graph.body if call.kernel in ("norm", "gate")]
    assert all((argument is not None) == codes for argument in offered)
    linears = [call for call in graph.body if call.kernel == "linear"]
    assert all((call.arguments[0] is None) == codes for call in linears)
    assert all((call.arguments[1] is not None) == codes for call in linears)


def test_the_head_reads_what_the_body_leaves() -> None:
    graph = captured("gemma2")
    written = graph.body[-1].arguments[0]
    assert written is not None
    assert written.buffer == graph.hidden
    read = [argument.buffer for argument in graph.head[0].arguments if argument is not None]
    assert graph.hidden in read
    ends = graph.head[-1].arguments[0]
    assert ends is not None
    assert ends.buffer == graph.logits


@pytest.mark.parametrize("name", ["llama", "lfm2", "phi3", "gemma3"])
def test_row_buffers_alive_together_never_overlap(name: str) -> None:
    graph = captured(name)
    plan = graph.plan()
    calls = (*graph.body, *graph.head)
    lives: dict[int, list[int]] = {}
    for time, call in enumerate(calls):
        for argument in call.arguments:
            if argument is not None and graph.buffers[argument.buffer].role == "row":
                lives.setdefault(argument.buffer, []).append(time)
    assert set(lives) <= set(plan.offsets)
    items = sorted(plan.offsets.items())
    for one, start in items:
        size = graph.buffers[one].nbytes
        assert start % 64 == 0
        assert start + size <= plan.nbytes
        for other, begin in items:
            if other <= one or not (lives.get(one) and lives.get(other)):
                continue
            together = lives[one][0] <= lives[other][-1] and lives[other][0] <= lives[one][-1]
            apart = start + size <= begin or begin + graph.buffers[other].nbytes <= start
            assert apart or not together


@pytest.mark.parametrize("name", FAMILIES)
def test_without_codes_all_products_read_floats(name: str) -> None:
    graph = captured(name, "Q8_0", codes=False)
    calls = (*graph.body, *graph.head)
    assert "quantise" not in graph.kernels()
    for call in calls:
        if call.kernel == "linear":
            assert call.arguments[0] is not None
        if call.kernel in ("linear", "norm", "gate"):
            assert call.arguments[1] is None


@pytest.mark.parametrize("name", FAMILIES)
def test_row_functions_spread_over_work_items(name: str) -> None:
    from tinygrad.helpers import Target
    from tinygrad.renderer.cstyle import OpenCLRenderer

    class Renderer(OpenCLRenderer):
        global_max = (1 << 30,)

    graph = captured(name, renderer=Renderer(Target.parse("CL::")))
    functions = {function.name for function in graph.functions}
    for call in (*graph.body, *graph.head):
        if call.kernel in functions:
            output = call.arguments[0]
            assert output is not None
            (items,) = call.numbers
            assert 4 * items <= graph.buffers[output.buffer].nbytes - output.offset


def test_nothing_is_allocated_or_run() -> None:
    script = """
        import os
        os.environ.update(DEV="CPU", CC="/nonexistent/compiler")
        from edgellm.capture import Weight, capture
        from edgellm.config import Config, Layer, Rope
        config = Config("llama", vocab=32000, dim=4096, heads=32, head_dim=128, hidden=11008,
                        context=4096, layers=(Layer(kv_heads=32),) * 2, ropes=(Rope(128),))
        d, f, v = 4096, 11008, 32000
        weights = {"token_embd.weight": Weight((v, d), "Q4_0"),
                   "output_norm.weight": Weight((d,), None)}
        for index in range(2):
            shapes = dict(attn_q=(d, d), attn_k=(d, d), attn_v=(d, d), attn_output=(d, d),
                          ffn_gate=(f, d), ffn_up=(f, d), ffn_down=(d, f))
            for part, shape in shapes.items():
                weights[f"blk.{index}.{part}.weight"] = Weight(shape, "Q4_0")
            for part in ("attn_norm", "ffn_norm"):
                weights[f"blk.{index}.{part}.weight"] = Weight((d,), None)
        graph = capture(config, weights)
        assert len(graph.body) == 1 + 2 * 15, len(graph.body)
        status = dict(line.split(":") for line in open("/proc/self/status"))
        print(int(status["VmHWM"].split()[0]) // 1024)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200  # MiB; the weights alone would take 1,600 as float32
