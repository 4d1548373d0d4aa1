"""backends/metal/renderer.py: row functions are what kernels of the dialect can call."""

from __future__ import annotations

import re

from tinygrad import Tensor, dtypes

from edgellm.capture import Recorder
from edgellm_backends.gpu.build import use_no_device
from edgellm_backends.metal.renderer import RowRenderer


def test_functions_with_a_work_item_for_each_number() -> None:
    use_no_device()
    recorder = Recorder(RowRenderer())
    x = Tensor.empty(1, 4, 6, dtype=dtypes.float32)
    made = (x.transpose(1, 2).exp() + x.max(axis=1, keepdim=True).reshape(1, 6, 1)).contiguous()
    calls, _ = recorder.calls(made)
    assert [call.numbers for call in calls] == [(6,), (24,)]
    for function in recorder.functions.values():
        head, _, body = function.source.partition("{")
        parameters = re.fullmatch(rf"static void {function.name}\((.*), uint3 gid\) ", head)
        assert parameters is not None
        assert all(each.startswith("device float* ") for each in parameters[1].split(", "))
        assert "gid.x" in body
        assert "gid.y" not in body
