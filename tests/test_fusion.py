"""Which calls one kernel does at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from device_models import FAMILIES, family

from edgellm import checkpoint, layout
from edgellm.capture import Weight, capture
from edgellm.graph import StepGraph
from edgellm_backends.gpu.fusion import fused

pytestmark = pytest.mark.usefixtures("cpu")


def captured(name: str) -> StepGraph:
    opened = checkpoint.open(family(name))
    weights = {
        key: Weight(tuple(tensor.shape), "F32" if len(tensor.shape) == 2 else None)
        for key, tensor in opened.tensors.items()
        if key not in layout.TABLES
    }
    return capture(opened.config, weights, codes=False)


@pytest.mark.parametrize("name", FAMILIES)
def test_turned_keys_are_stored_at_once(name: str) -> None:
    before = captured(name)
    after = fused(before)
    old, new = (Counter(call.kernel for call in graph.body) for graph in (before, after))
    joined = new.pop("rotate_store", 0)
    assert old - new == Counter({"rotate": 2 * joined, "store": joined})
    turned = old["rotate"] // 2
    assert joined in (0, turned)  # where there are other calls between them, none
    if name in ("llama", "gemma3", "qwen3"):
        assert joined == turned > 0
    for call in after.body:
        if call.kernel == "rotate_store":
            written, queries, _, state, keys, values = call.arguments
            assert all(argument is not None for argument in call.arguments)
            assert written not in (queries, keys, values)
            assert state is not None
            assert before.buffers[state.buffer].role == "state"


def test_keys_that_others_read_stay_apart() -> None:
    graph = captured("llama")
    turns = [call for call in graph.body if call.kernel == "rotate"]
    store = next(call for call in graph.body if call.kernel == "store")
    reader = turns[0]._replace(arguments=(None, store.arguments[1], None))
    both = fused(replace(graph, body=(*graph.body, reader)))
    kernels = Counter(call.kernel for call in graph.body)["store"]
    assert Counter(call.kernel for call in both.body)["rotate_store"] == kernels - 1
