"""The texts of programs: the kernels' files, a model's row functions, and how both are joined.

A bundle carries the texts that it was built with, by their names; a program is some of them after
the definitions that choose among formats and sizes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgpack

from edgellm.errors import FormatError, UnsupportedError
from edgellm.graph import Call, RowFunction, StepGraph

KERNELS = Path(__file__).with_name("kernels")
BLOB = "sources"
"""The blob of a bundle that holds the texts."""
LANGUAGE, ROWS, VERSION = "language.h", "model.c", "version"
"""Names of the texts that aren't files of `kernels`: the language's header, the row functions, and
CALLS, of the edgellm that built them."""
CALLS = "1"
"""Changes when kernels are called otherwise."""
MAX_TEXTS, MAX_BYTES = 64, 4 << 20

Texts = Mapping[str, str]

Places = tuple[tuple[int, int], ...]
"""Of each buffer that a row function is called with: where its first row begins, and the bytes from
one row to the next."""


def texts(language: Path, graph: StepGraph) -> dict[str, str]:
    """All that programs of a model are made of."""
    found = {path.name: path.read_text(encoding="utf-8") for path in sorted(KERNELS.iterdir())}
    found[LANGUAGE] = language.read_text(encoding="utf-8")
    found[ROWS] = row_source(graph)
    found[VERSION] = CALLS
    return found


def pack(found: Texts) -> bytes:
    """Texts as a blob."""
    raw: bytes = msgpack.packb(dict(found))
    return raw


def unpack(raw: bytes | memoryview, file: object) -> dict[str, str]:
    """The texts in a blob. Raises FormatError, UnsupportedError for those of another edgellm."""
    allowed = "texts by their names are needed"
    try:
        found = msgpack.unpackb(
            raw, max_map_len=MAX_TEXTS, max_str_len=MAX_BYTES, max_bin_len=0, max_array_len=0
        )
    except (ValueError, msgpack.UnpackException) as error:
        raise FormatError(file, BLOB, type(error).__name__, allowed) from error
    if type(found) is not dict or not all(
        type(part) is str for each in found.items() for part in each
    ):
        raise FormatError(file, BLOB, type(found).__name__, allowed)
    if found.get(VERSION) != CALLS:
        remedy = f"this edgellm runs version {CALLS}; build the bundle anew"
        raise UnsupportedError(file, "version of its kernels", found.get(VERSION), remedy)
    return found


def program(found: Texts, names: tuple[str, ...], **defined: int) -> str:
    """One program: definitions, the language, the dialect, and then the named texts."""
    lines = [f"#define {name} {value}\n" for name, value in sorted(defined.items())]
    return "".join(lines) + "\n".join(
        found[name] for name in (LANGUAGE, "dialect.h", *names) if name in found
    )


def places(call: Call, graph: StepGraph) -> Places:
    """Where a row function finds its buffers."""
    found = []
    for argument in call.arguments:
        assert argument is not None  # row functions have no optional buffers
        buffer = graph.buffers[argument.buffer]
        found.append((argument.offset, buffer.nbytes if buffer.role == "row" else 0))
    return tuple(found)


def row_kernels(graph: StepGraph) -> dict[tuple[str, int, Places], str]:
    """The kernels that run row functions: one for each function, number of work items and places
    of buffers, by its name in the program."""
    functions = {function.name for function in graph.functions}
    kernels: dict[tuple[str, int, Places], str] = {}
    for call in (*graph.body, *graph.head):
        if call.kernel in functions:
            key = call.kernel, row_items(call), places(call, graph)
            kernels.setdefault(key, f"call_{len(kernels)}")
    return kernels


def row_items(call: Call) -> int:
    """Work items of a row function's call, for one row."""
    return call.numbers[0] if call.numbers else 1


def row_source(graph: StepGraph) -> str:
    """The row functions, and the kernels that call them for each row."""
    functions = {function.name: function for function in graph.functions}
    wrappers = [
        _wrapper(kernel, functions[name], items, where)
        for (name, items, where), kernel in row_kernels(graph).items()
    ]
    return "\n".join([*(function.source for function in functions.values()), *wrappers])


def _wrapper(kernel: str, function: RowFunction, items: int, where: Places) -> str:
    found = re.search(rf"\bvoid {function.name}\((.*?)\) {{", function.source)
    if found is None:
        raise ValueError(f"the source of {function.name} doesn't define it")
    # Types as tinygrad writes them in this language: `__global float* data0_32`.
    types = [parameter.rpartition(" ")[0] for parameter in found[1].split(", ")[: len(where)]]
    parameters = ", ".join(f"GLOBAL uchar *a{index}" for index in range(len(where)))
    arguments = ", ".join(
        f"({type})(a{index} + (GROUP(1) * {stride} + {offset}))"
        for index, (type, (offset, stride)) in enumerate(zip(types, where, strict=True))
    )
    return (
        f"\nKERNEL({kernel}, {parameters}) {{\n"
        f"    if (INDEX < {items}) ROW_FUNCTION({function.name}, {arguments});\n}}\n"
    )
