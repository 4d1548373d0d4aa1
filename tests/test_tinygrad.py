"""Each piece of tinygrad beyond Tensor that edgellm leans on: a new version breaks here first."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.usefixtures("cpu")


def test_variables_stand_for_slots_and_positions() -> None:
    from tinygrad import Tensor, TinyJit, UOp

    table = Tensor([0.0, 1, 2, 3, 4, 5, 6, 7]).realize()
    part = TinyJit(lambda table, start: (table[start : start + 2] * 10).contiguous().realize())
    found = [part(table, UOp.variable("start", 0, 6).bind(at)).tolist() for at in (0, 3, 6, 1)]
    assert found == [[0, 10], [30, 40], [60, 70], [10, 20]]


def test_a_store_into_a_part_of_a_buffer_comes_before_what_reads_it() -> None:
    from tinygrad import Tensor

    rows = Tensor.zeros(4).contiguous().realize()
    stored = Tensor(rows.uop.after(rows[1:3].uop.store(Tensor([5.0, 6.0]).uop)))
    assert stored.tolist() == [0, 5, 6, 0]
    assert rows.tolist() == [0, 5, 6, 0]


def test_the_jit_writes_into_its_inputs() -> None:
    from tinygrad import Tensor, TinyJit

    def double(x: Tensor) -> None:
        x.assign(x * 2).realize()

    captured = TinyJit(double)
    x = Tensor.ones(3).contiguous().realize()
    for _ in range(5):
        captured(x)
    assert x.tolist() == [32.0] * 3


def test_a_call_of_foreign_code_within_the_graph_and_its_gradient() -> None:
    """C that is given as it is, with inputs and outputs named; and a gradient of our own."""
    from tinygrad import Tensor, TinyJit, UOp
    from tinygrad.uop.ops import KernelInfo, Ops, ProgramInfo

    source = "void twice(float *restrict y, float *restrict x) { *y = 2 * *x; }\n"

    def program(*uops: UOp) -> UOp:
        sink = UOp.sink(*uops, arg=KernelInfo(name="twice"))
        about = ProgramInfo("twice", globals=(0, 1), outs=(0,), ins=(1,))
        parts = (sink, UOp(Ops.LINEAR, src=tuple(sink.toposort())), UOp(Ops.SOURCE, arg=source))
        return UOp(Ops.PROGRAM, src=parts, arg=about)

    def back(gradient: UOp, call: UOp) -> tuple[None, UOp]:
        assert len(call.src) == 3  # the program, y and x
        return None, (Tensor(gradient) * 2).uop

    def slope(x: Tensor) -> Tensor:
        y = Tensor.empty(1).custom_kernel(x, fxn=program, grad_fxn=back)[0]
        return (y * y).sum().gradient(x)[0].realize()

    captured = TinyJit(slope)
    found = [captured(Tensor([value]).realize()).item() for value in (1.0, 2.0, 3.0)]
    assert found == [8.0, 16.0, 24.0]


def test_memory_is_read_and_written_without_a_schedule() -> None:
    import numpy as np
    from tinygrad import Tensor

    from edgellm.training.memory import read, write

    x = Tensor.zeros(2, 3).contiguous().realize()
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    write(x, values)
    assert (x + 1).tolist() == (values + 1).tolist()
    np.testing.assert_array_equal(read(x), values)


def test_the_names_that_the_compiler_needs() -> None:
    from tinygrad.helpers import DEV, PARALLEL

    assert (DEV, PARALLEL.value) != ()
