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


def test_the_names_that_training_and_the_compiler_need() -> None:
    from tinygrad import Tensor
    from tinygrad.codegen.opt import Opt, OptOps
    from tinygrad.helpers import DEV, PARALLEL
    from tinygrad.uop.ops import AxisType, KernelInfo, Ops

    assert callable(Tensor.custom_kernel)
    assert callable(Tensor.contiguous_backward)
    assert Opt(OptOps.UPCAST, 0, 4)
    assert KernelInfo(name="k").name == "k"
    assert (AxisType.REDUCE, Ops.ADD, DEV, PARALLEL.value) != ()
