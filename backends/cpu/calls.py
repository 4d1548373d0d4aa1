"""A StepGraph's calls as the engine takes them: kernel numbers and an array of C structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgellm.graph import StepGraph

CALL = np.dtype([("buffers", "u8", 16), ("numbers", "i8", 16), ("reals", "f4", 4)])
"""A Call of kernels/edge.h."""


class CallTable:
    """The body's calls, then the head's."""

    def __init__(self, graph: StepGraph, kernels: Sequence[str] = ()) -> None:
        """`kernels` is the library's table, by default that of the graph."""
        self.graph = graph
        calls = (*graph.body, *graph.head)
        numbers = {name: number for number, name in enumerate(kernels or graph.kernels())}
        self.which = np.array([numbers[call.kernel] for call in calls], np.int32)
        """Of each call the number of its kernel in the library's table."""
        self.calls = np.zeros(len(calls), CALL)
        functions = {function.name for function in graph.functions}
        for entry, call in zip(self.calls, calls, strict=True):
            given = call.numbers
            if call.kernel in functions:
                given = tuple(
                    self._stride(argument.buffer) for argument in call.arguments if argument
                )
            entry["numbers"][: len(given)] = given
            entry["reals"][: len(call.reals)] = call.reals

    def place(self, addresses: Mapping[int, int]) -> None:
        """Enter the buffers' addresses, by their number in the graph."""
        for entry, call in zip(self.calls, (*self.graph.body, *self.graph.head), strict=True):
            for index, argument in enumerate(call.arguments):
                if argument is not None:
                    entry["buffers"][index] = addresses[argument.buffer] + argument.offset

    def part(self, begin: int, end: int) -> tuple[int, int, int]:
        """Some of the calls as the engine's functions take them: two addresses and a count."""
        which = self.which.ctypes.data + begin * self.which.itemsize
        return which, self.calls.ctypes.data + begin * CALL.itemsize, end - begin

    def _stride(self, buffer: int) -> int:
        """Bytes from one row to the next, as row functions are told."""
        found = self.graph.buffers[buffer]
        return found.nbytes if found.role == "row" else 0
