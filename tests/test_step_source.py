"""backends/cpu/step_source.py: C around tinygrad's functions."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import numpy as np
import pytest

from edgellm.errors import BackendError
from edgellm.graph import Argument, Buffer, Call, RowFunction, StepGraph
from edgellm_backends.cpu import library, target
from edgellm_backends.cpu.calls import CALL, CallTable
from edgellm_backends.cpu.engine import Engine, Step
from edgellm_backends.cpu.step_source import step_source

KERNELS = [library.KERNELS / f"{name}.c" for name in ("engine", "choice", "half", "slots", "adapt")]
VECTORS = "typedef float float4 __attribute__((aligned(16),ext_vector_type(4)));\n"
WIDTH = 5  # rows begin where no vector may, in tinygrad's eyes


def function(name: str, expression: str, count: int) -> RowFunction:
    parameters = ", ".join(f"float* restrict data{i}" for i in range(count))
    body = f"*((float4*)(data0)) = {expression}; data0[4] = 7.0f;"
    return RowFunction(name, f"{VECTORS}void {name}({parameters}) {{ {body} }}\n", count)


ADD = function("row_0", "*((float4*)(data1)) + *((float4*)(data2))", 3)
TWICE = function("row_1", "*((float4*)(data1)) * 2.0f", 2)


def graph(functions: tuple[RowFunction, ...] = (ADD, TWICE)) -> StepGraph:
    row = Buffer("row", nbytes=4 * WIDTH)
    buffers = (row, row, Buffer("weight", "bias"), Buffer("row", nbytes=4 * 2 * WIDTH))
    body = (
        Call("row_0", (Argument(1), Argument(3, 4 * WIDTH), Argument(2))),
        Call("row_1", (Argument(0), Argument(1))),
    )
    return StepGraph(buffers, body, (), 0, 0, functions)


@functools.cache
def built(name: str) -> bytes:
    processor = target.find(name)
    try:
        library.toolchain(processor)
    except BackendError as error:
        pytest.skip(str(error))
    return library.library(processor, step_source(graph()), kernels=KERNELS)


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 128])
@pytest.mark.parametrize("threads", [1, 3])
def test_every_row_with_its_own_arguments(rows: int, threads: int) -> None:
    random = np.random.default_rng(rows)
    given = random.normal(size=(rows, 2, WIDTH)).astype(np.float32)
    bias = random.normal(size=WIDTH).astype(np.float32)
    middle, out = np.zeros((2, rows, WIDTH), np.float32)
    table = CallTable(graph())
    addresses = [array.ctypes.data for array in (out, middle, bias, given)]
    table.place(dict(enumerate(addresses)))
    pool, step = Engine(built("native"), threads), Step(rows=rows)
    cancel = ctypes.c_int32()
    assert pool.prepared(table.part(0, 2), step, cancel)() == 0
    pool.close()
    np.testing.assert_array_equal(out[:, :4], (given[:, 1, :4] + bias[:4]) * 2)
    assert (out[:, 4] == 7).all()


def test_call_tables_hold_strides_and_addresses() -> None:
    table = CallTable(graph())
    table.place({0: 1000, 1: 2000, 2: 3000, 3: 4000})
    assert table.which.tolist() == [0, 1]
    assert table.calls["numbers"][0, :4].tolist() == [20, 40, 0, 0]
    assert table.calls["buffers"][0, :4].tolist() == [2000, 4020, 3000, 0]
    begin = table.part(1, 2)
    assert begin == (table.which.ctypes.data + 4, table.calls.ctypes.data + CALL.itemsize, 1)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (RowFunction("row_0", "int row_0(void) { return 0; }", 1), "defines it 0 times"),
        (RowFunction("row_0", ADD.source, 17), "17 arguments, not 1 to 16"),
        (RowFunction("row_0", ADD.source, 0), "0 arguments, not 1 to 16"),
    ],
)
def test_functions_that_cannot_be_used(broken: RowFunction, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        step_source(graph((broken, TWICE)))


@pytest.mark.parametrize("name", ["", "a b", "x;system", "é", "1st"])
def test_names_that_are_no_names(name: str) -> None:
    calls = (Call(name, (Argument(0),)),)
    with pytest.raises(ValueError, match="can't be the name of a function"):
        step_source(StepGraph((Buffer("row", nbytes=4),), calls, (), 0, 0))


def test_the_header_and_the_generator_agree() -> None:
    header = Path(library.KERNELS, "edge.h").read_text()
    assert "EDGE_BUFFERS = 16, EDGE_NUMBERS = 16, EDGE_REALS = 4" in header
    assert CALL.itemsize == 16 * 8 + 16 * 8 + 4 * 4
