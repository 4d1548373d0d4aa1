"""StepGraph: one step of a model as data, kernels, buffers and calls in order; no tinygrad needed.

A graph is written for one row, that is one token at its position in its slot. Row buffers hold one
such piece for each row of a step, one after another, so the same graph decodes one sequence or
several and computes the chunks of a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

NEVER: Mapping[str, tuple[int, int]] = {}
Role = Literal["weight", "table", "state", "row"]

# Tuples, where a graph has hundreds of a kind: a start waits until they are made.


class Buffer(NamedTuple):
    """Memory that calls read or write."""

    role: Role
    """weight: packed, from the file. table: numbers that follow from the configuration, computed
    when the model is opened. state: what one layer remembers, all slots. row: scratch, `nbytes` for
    each row of the step. Rows' tokens and positions are no buffers: kernels know the step."""
    name: str = ""
    """Of a weight the tensor's name; of a table "rope.N" (positions, 2, R/2) or "slopes" (H,),
    float32; of a state the layer's number."""
    nbytes: int = 0
    """Of a row buffer, for one row."""


class Argument(NamedTuple):
    """A buffer as a call sees it: from `offset` bytes on (of each row, for row buffers)."""

    buffer: int
    """Index into `StepGraph.buffers`."""
    offset: int = 0


class Call(NamedTuple):
    """One run of one kernel."""

    kernel: str
    """A backend's kernel ("linear", …) or the name of a row function."""
    arguments: tuple[Argument | None, ...]
    numbers: tuple[int, ...] = ()
    """What they are, the kernel says; a row function's may have how many work items it takes for a
    row, each of which does its share; by default 1."""
    reals: tuple[float, ...] = ()


class RowFunction(NamedTuple):
    """What tinygrad wrote for one row, in C or a kin of it: `void name(T0* a0, T1* a1, …)`, one
    argument a buffer."""

    name: str
    source: str
    arguments: int


@dataclass(frozen=True)
class StepGraph:
    """The body takes tokens to the last layer's output; the head takes rows of it to logits.

    `hidden` and `logits` are row buffers: the body writes `hidden`, the head reads it (whoever runs
    the graph gathers there the rows that are asked for) and writes `logits`.
    """

    buffers: tuple[Buffer, ...]
    body: tuple[Call, ...]
    head: tuple[Call, ...]
    hidden: int
    logits: int
    functions: tuple[RowFunction, ...] = ()

    def kernels(self) -> list[str]:
        """Names of all kernels and row functions, each once, in order of first use."""
        return list(dict.fromkeys(call.kernel for call in (*self.body, *self.head)))

    def plan(self, alignment: int = 64, in_place: Mapping[str, tuple[int, int]] = NEVER) -> RowPlan:
        """Places for the row buffers; two share memory where their lives don't overlap. `in_place`
        names kernels that may write their result over an input, as each value follows from the one
        in the same place alone; with the arguments that these are."""
        return plan_rows(self, alignment, in_place)


@dataclass(frozen=True)
class RowPlan:
    """Where row buffers lie in scratch memory: at `offsets[buffer] * rows`, `nbytes * rows` long.

    Multiples of the alignment, so that they stay aligned for any number of rows.
    """

    offsets: dict[int, int] = field(default_factory=dict)
    nbytes: int = 0
    """Of the whole plan, for one row."""


def plan_rows(
    graph: StepGraph, alignment: int, in_place: Mapping[str, tuple[int, int]] = NEVER
) -> RowPlan:
    """First fit by size over the lives of the row buffers.

    `hidden` lives through body and head, since its rows are gathered between them.
    """
    lives: dict[int, tuple[int, int]] = {}
    calls: Sequence[Call] = (*graph.body, *graph.head)
    for time, call in enumerate(calls):
        for argument in call.arguments:
            if argument is not None and graph.buffers[argument.buffer].role == "row":
                first, _ = lives.get(argument.buffer, (time, time))
                lives[argument.buffer] = (first, time)
    for lasting in (graph.hidden, graph.logits):
        lives[lasting] = (0, len(calls))
    inputs: dict[int, int] = {}  # by the result that is written over each
    for time, call in enumerate(calls):
        if call.kernel in in_place:
            result, source = (call.arguments[place] for place in in_place[call.kernel])
            if result and source and _replaces(graph, lives, result, source, time):
                inputs[result.buffer] = source.buffer
                lives[source.buffer] = (lives[source.buffer][0], lives.pop(result.buffer)[1])

    offsets: dict[int, int] = {}
    taken_at: list[set[tuple[int, int]]] = [set() for _ in range(len(calls) + 1)]  # by time
    end = 0
    for index in sorted(lives, key=lambda i: (-graph.buffers[i].nbytes, i)):
        first, last = lives[index]
        size = -(-graph.buffers[index].nbytes // alignment) * alignment
        offset = 0
        for begin, finish in sorted(set().union(*taken_at[first : last + 1])):
            if offset + size <= begin:
                break
            offset = max(offset, finish)
        offsets[index] = offset
        for taken in taken_at[first : last + 1]:
            taken.add((offset, offset + size))
        end = max(end, offset + size)
    offsets.update((result, offsets[source]) for result, source in inputs.items())
    return RowPlan(offsets, end)


def _replaces(
    graph: StepGraph,
    lives: Mapping[int, tuple[int, int]],
    result: Argument,
    source: Argument,
    time: int,
) -> bool:
    """Whether a call's result may lie where its input has, which nobody reads any more."""
    here, there = graph.buffers[result.buffer], graph.buffers[source.buffer]
    return (
        here.role == there.role == "row"
        and here.nbytes == there.nbytes
        and result.offset == source.offset == 0
        and result.buffer in lives
        and source.buffer in lives
        and lives[result.buffer][0] == lives[source.buffer][1] == time
    )
