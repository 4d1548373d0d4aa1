"""edgellm/graph.py: where the rows of a step lie."""

from __future__ import annotations

from edgellm.graph import Argument, Buffer, Call, StepGraph

IN_PLACE = {"gate": (0, 2)}


def graph(*later: Call, offset: int = 0, result: int = 4096) -> StepGraph:
    """Two products, what a gate makes of them, and calls that come after it."""
    sizes = (512, 4096, 4096, result, 512)
    hidden, gate, up, out, last = range(len(sizes))
    calls = (
        Call("linear", (Argument(hidden), Argument(gate), Argument(up))),
        Call("gate", (Argument(out), None, Argument(gate, offset), Argument(up))),
        Call("linear", (Argument(out), Argument(last))),
        *later,
    )
    buffers = tuple(Buffer("row", nbytes=size) for size in sizes)
    return StepGraph(buffers, calls, (), hidden=hidden, logits=last)


def places(made: StepGraph) -> tuple[int, int]:
    """Of the gate's first input, and of its result."""
    plan = made.plan(in_place=IN_PLACE)
    return plan.offsets[1], plan.offsets[3]


def test_a_result_may_lie_where_its_input_was() -> None:
    source, result = places(graph())
    assert source == result
    assert graph().plan(in_place=IN_PLACE).nbytes == graph().plan().nbytes - 4096


def test_it_may_not_where_the_input_is_read_again_or_is_another_piece() -> None:
    again = Call("add", (Argument(4), Argument(1)))
    for made in (graph(again), graph(offset=64), graph(result=2048)):
        source, result = places(made)
        assert source != result
        assert made.plan(in_place=IN_PLACE) == made.plan()
