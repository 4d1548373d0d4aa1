"""A model's StepGraph with calls for its adapters: the bundle stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import UsageError
from edgellm.graph import Argument, Buffer, Call, StepGraph

if TYPE_CHECKING:
    from edgellm.adapter import Adapter

KERNELS = ("adapt_down", "adapt_up")
"""Every library has them, after the kernels of its graph."""
STRENGTHS = "adapters.strengths"
"""The weight whose memory is the executor's: float32 (slots, adapters)."""
LANES = 16
MOST = 4
"""Matrices of a call: what it has numbers for."""


@dataclass(frozen=True)
class AdaptedGraph:
    graph: StepGraph
    arrays: dict[str, NDArray[Any]]
    """What the further weights are, by their names; but for STRENGTHS."""


def with_adapters(graph: StepGraph, adapters: Sequence[Adapter]) -> AdaptedGraph:
    """After each product of a matrix that any of the adapters changes, what they add to it; how the
    memory lies is told in backends/cpu/kernels/adapt.c.

    Raises UsageError where the graph doesn't multiply with a matrix that an adapter changes.
    """
    rewriter = _Rewriter(graph, adapters)
    made = replace(
        graph,
        body=tuple(rewriter.rewritten(graph.body)),
        head=tuple(rewriter.rewritten(graph.head)),
        buffers=tuple(rewriter.buffers),
    )
    for adapter in adapters:
        if missing := min(set(adapter.matrices) - rewriter.seen, default=None):
            raise UsageError(f"adapter {adapter.name}: the model doesn't multiply with {missing}")
    return AdaptedGraph(made, rewriter.arrays)


class _Rewriter:
    def __init__(self, graph: StepGraph, adapters: Sequence[Adapter]) -> None:
        self.adapters = adapters
        self.buffers = list(graph.buffers)
        self.arrays: dict[str, NDArray[Any]] = {}
        self.seen: set[str] = set()
        self._strengths = self._add(Buffer("weight", STRENGTHS))

    def rewritten(self, calls: Iterable[Call]) -> Iterator[Call]:
        floats: dict[int, Argument | None] = {}  # what int8 activations were made of, by buffer
        for call in calls:
            yield call
            if call.kernel == "quantise" and call.arguments[0]:
                floats[call.arguments[0].buffer] = call.arguments[1]
            elif call.kernel in ("norm", "gate") and call.arguments[1]:
                floats[call.arguments[1].buffer] = call.arguments[0]
            elif call.kernel == "linear":
                x, codes, *_ = call.arguments
                yield from self._adapted(call, x or floats[codes.buffer if codes else -1])

    def _adapted(self, call: Call, x: Argument | None) -> Iterator[Call]:
        """The calls that follow a product."""
        products = []
        for weight, y in zip(call.arguments[2::2], call.arguments[3::2], strict=True):
            assert weight is not None
            name = self.buffers[weight.buffer].name
            found = [
                (index, adapter.matrices[name])
                for index, adapter in enumerate(self.adapters)
                if name in adapter.matrices
            ]
            if found:
                self.seen.add(name)
                products.append((name, y, found))
        if not products:
            return
        first = products[0][0]
        owners = [
            index for _, _, found in products for index, matrix in found for _ in range(matrix.rank)
        ]
        rows = [
            matrix.a * np.float32(matrix.scale) for *_, found in products for _, matrix in found
        ]
        ranks = len(owners)
        t = self._add(Buffer("row", nbytes=4 * ranks))
        a = self._array(f"{first}.adapters.a", np.concatenate(rows))
        owner = self._array(f"{first}.adapters.owner", np.array(owners, np.int32))
        numbers = (call.numbers[0], ranks, len(self.adapters))
        yield Call(KERNELS[0], (x, t, a, owner, self._strengths), numbers)
        begin = 0
        for start in range(0, len(products), MOST):
            part = products[start : start + MOST]
            arguments: list[Argument | None] = [t]
            shapes: list[int] = []
            for name, y, found in part:
                columns = np.concatenate([matrix.b for _, matrix in found], axis=1)  # (N, r)
                arguments += [self._array(f"{name}.adapters.b", _blocks(columns)), y]
                shapes += [begin, columns.shape[1], columns.shape[0]]
                begin += columns.shape[1]
            yield Call(KERNELS[1], tuple(arguments), (ranks, len(part), *shapes))

    def _add(self, buffer: Buffer) -> Argument:
        self.buffers.append(buffer)
        return Argument(len(self.buffers) - 1)

    def _array(self, name: str, values: NDArray[Any]) -> Argument:
        self.arrays[name] = np.ascontiguousarray(values)
        return self._add(Buffer("weight", name))


def _blocks(columns: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, r) in blocks of sixteen rows, (N / 16, r, 16), the last filled with zeros."""
    padded = np.pad(columns, ((0, -len(columns) % LANES), (0, 0)))
    return padded.reshape(-1, LANES, columns.shape[1]).swapaxes(1, 2)
