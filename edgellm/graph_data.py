"""A StepGraph as plain data in a bundle's manifest, and back with every reference checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

from edgellm.config import Config
from edgellm.errors import FormatError
from edgellm.graph import Argument, Buffer, Call, Role, RowFunction, StepGraph

ROLES: tuple[Role, ...] = get_args(Role)
MAX_ARGUMENTS = 16
MAX_NUMBERS = 16
MAX_REALS = 4
"""Of one call, as the kernels' interface has them."""
MAX_ROW = 1 << 30
"""Bytes of a row buffer for one row."""


def plain(graph: StepGraph) -> dict[str, Any]:
    """The graph as lists and numbers; kernels by their place in `graph.kernels()`, row functions
    without their sources."""
    names = graph.kernels()
    place = {name: index for index, name in enumerate(names)}

    def calls(made: tuple[Call, ...]) -> list[list[Any]]:
        return [
            [
                place[call.kernel],
                [a and [a.buffer, a.offset] for a in call.arguments],
                [int(number) for number in call.numbers],
                [float(real) for real in call.reals],
            ]
            for call in made
        ]

    return {
        "buffers": [[buffer.role, buffer.name, buffer.nbytes] for buffer in graph.buffers],
        "kernels": names,
        "functions": [[function.name, function.arguments] for function in graph.functions],
        "body": calls(graph.body),
        "head": calls(graph.head),
        "hidden": graph.hidden,
        "logits": graph.logits,
    }


def read(data: object, file: object, config: Config, tensors: Mapping[str, int]) -> StepGraph:
    """The graph in `data`, over tensors of the given numbers of bytes.

    What calls refer to is there, and begins within it. Whether kernels get along with it isn't
    looked at: who signs a bundle vouches for its machine code too. Raises FormatError.
    """
    return _Reader(file, config, tensors).graph(data)


class _Reader:
    def __init__(self, file: object, config: Config, tensors: Mapping[str, int]) -> None:
        self.file, self.config, self.tensors = file, config, tensors
        self.buffers: tuple[Buffer, ...] = ()
        self.sizes: list[int] = []
        self.kernels: list[str] = []
        self.layers = set(map(str, range(len(config.layers))))
        self.tables = {f"rope.{index}" for index in range(len(config.ropes))}
        if config.position == "alibi":
            self.tables.add("slopes")

    def fail(self, where: str, value: object, allowed: str) -> FormatError:
        return FormatError(self.file, f"graph {where}", value, allowed)

    def graph(self, data: object) -> StepGraph:
        names = {"buffers", "kernels", "functions", "body", "head", "hidden", "logits"}
        if type(data) is not dict or data.keys() != names:
            raise self.fail("", type(data).__name__, f"a map of {', '.join(sorted(names))}")
        self.buffers = tuple(
            self.buffer(number, each) for number, each in enumerate(self.list(data, "buffers"))
        )
        self.sizes = list(map(self.size, self.buffers))
        self.kernels = self.list(data, "kernels")
        if not all(type(name) is str for name in self.kernels):
            raise self.fail("kernels", self.kernels, "names are needed")
        functions = []
        for each in self.list(data, "functions"):
            match each:
                case [str(name), int(count)] if name in self.kernels and 0 < count <= MAX_ARGUMENTS:
                    functions.append(RowFunction(name, "", count))
                case _:
                    raise self.fail("function", each, "a kernel's name and a number of arguments")
        graph = StepGraph(
            buffers=self.buffers,
            body=self.calls(data, "body"),
            head=self.calls(data, "head"),
            hidden=self.row(data, "hidden", self.config.dim),
            logits=self.row(data, "logits", self.config.vocab),
            functions=tuple(functions),
        )
        if graph.kernels() != self.kernels:
            raise self.fail("kernels", self.kernels, "those of the calls, in order of first use")
        counts = {function.name: function.arguments for function in functions}
        for call in (*graph.body, *graph.head):
            if counts.get(call.kernel, len(call.arguments)) != len(call.arguments):
                raise self.fail(call.kernel, len(call.arguments), "another number of arguments")
        return graph

    def list(self, data: dict[str, Any], name: str) -> list[Any]:
        if type(data[name]) is not list:
            raise self.fail(name, type(data[name]).__name__, "a list is needed")
        found: list[Any] = data[name]
        return found

    def row(self, data: dict[str, Any], name: str, width: int) -> int:
        """The number of a row buffer of `width` float32 values."""
        index = data[name]
        if type(index) is not int or not 0 <= index < len(self.buffers):
            raise self.fail(name, index, f"below {len(self.buffers)} is allowed")
        if self.buffers[index].role != "row" or self.buffers[index].nbytes != 4 * width:
            raise self.fail(name, index, f"a row buffer of {4 * width} bytes is needed")
        return index

    def buffer(self, number: int, data: Any) -> Buffer:
        if not _is_list_of(data, str, str, int):
            raise self.fail(f"buffer {number}", data, "a role, a name and a size are needed")
        role, name, nbytes = data
        if role not in ROLES or not 0 <= nbytes <= MAX_ROW:
            raise self.fail(f"buffer {number}", data, f"{ROLES} and up to {MAX_ROW} are allowed")
        if role == "weight" and name not in self.tensors:
            raise self.fail(f"buffer {number}", name, "there is no such tensor")
        if role == "state" and name not in self.layers:
            raise self.fail(f"buffer {number}", name, "a layer's number is needed")
        if role == "table" and name not in self.tables:
            allowed = ", ".join(sorted(self.tables)) or "none"
            raise self.fail(f"buffer {number}", name, f"this model's tables are: {allowed}")
        if role == "row" and nbytes == 0:
            raise self.fail(f"buffer {number}", data, "a row has bytes")
        return Buffer(role, name, nbytes)

    def size(self, buffer: Buffer) -> int:
        """Bytes that an argument may begin in; of tables and states the sizes are known only when
        the model is opened."""
        if buffer.role == "weight":
            return self.tensors[buffer.name]
        return buffer.nbytes if buffer.role == "row" else 1

    def calls(self, data: dict[str, Any], name: str) -> tuple[Call, ...]:
        return tuple(
            self.call(f"{name} call {number}", each)
            for number, each in enumerate(self.list(data, name))
        )

    def call(self, where: str, data: Any) -> Call:
        if not _is_list_of(data, int, list, list, list):
            raise self.fail(where, data, "a kernel, arguments, numbers, reals are needed")
        kernel, arguments, numbers, reals = data
        if not 0 <= kernel < len(self.kernels):
            raise self.fail(where, kernel, f"a kernel below {len(self.kernels)} is allowed")
        if max(len(arguments) - MAX_ARGUMENTS, len(numbers) - MAX_NUMBERS) > 0:
            raise self.fail(where, len(arguments), f"up to {MAX_ARGUMENTS} are allowed")
        if not all(type(each) is int and abs(each) < 1 << 53 for each in numbers):
            raise self.fail(where, numbers, "whole numbers below 2**53 are needed")
        good = all(type(each) is float and math.isfinite(each) for each in reals)
        if len(reals) > MAX_REALS or not good:
            raise self.fail(where, reals, f"up to {MAX_REALS} finite numbers are allowed")
        return Call(
            self.kernels[kernel],
            tuple(self.argument(where, each) for each in arguments),
            tuple(numbers),
            tuple(reals),
        )

    def argument(self, where: str, data: Any) -> Argument | None:
        if data is None:
            return None
        if _is_list_of(data, int, int):
            index, offset = data
            if 0 <= index < len(self.sizes) and 0 <= offset < self.sizes[index]:
                return Argument(index, offset)
        raise self.fail(where, data, "a buffer and an offset within it are needed")


def _is_list_of(data: Any, *kinds: type) -> bool:
    """As a pattern of classes tells, which takes several times as long, for thousands of lists."""
    return type(data) is list and tuple(map(type, data)) == kinds
