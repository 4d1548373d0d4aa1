"""A model's own part of its library, in C: tinygrad's row functions, and the table of kernels."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgellm import adapter_graph
from edgellm.graph import RowFunction, StepGraph

BUFFERS = 16
"""The most buffers that a call has: EDGE_BUFFERS in kernels/edge.h."""

HEAD = """#include "edge.h"

// A few rows a part: tinygrad's functions are short.
static int parts_of_rows(const Call *call, const Step *step) {
    int32_t most = step->rows / 4, parts = 4 * step->threads;
    (void)call;
    return most < 2 ? 1 : most < parts ? most : parts;
}
"""

WRAPPER = """
static void run_{name}(const Call *call, const Step *step, int part, int parts) {{
    int64_t row = (int64_t)step->rows * part / parts;
    int64_t end = (int64_t)step->rows * (part + 1) / parts;
    for (; row < end; row++)
        {name}({arguments});
}}
static const Kernel kernel_{name} = {{parts_of_rows, run_{name}, NULL}};
"""


def step_source(graph: StepGraph) -> str:
    """C that defines `edge_kernels`, the table of all kernels in the order of `graph.kernels()`;
    those that adapters need follow.

    A row function becomes a kernel: its argument i is buffer i, advanced by number i for each row.
    """
    functions = {function.name: function for function in graph.functions}
    return "".join(_pieces([*graph.kernels(), *adapter_graph.KERNELS], functions))


def _pieces(kernels: list[str], functions: dict[str, RowFunction]) -> Iterator[str]:
    yield HEAD
    entries = []
    for name in kernels:
        if not name.isidentifier() or not name.isascii():
            raise ValueError(f"{name!r} can't be the name of a function in C")
        if name in functions:
            yield _function(functions[name])
            entries.append(f"    &kernel_{name},\n")
        else:
            yield f"\nextern const Kernel edge_{name};\n"
            entries.append(f"    &edge_{name},\n")
    yield "\nconst Kernel *const *edge_kernels(void) {\n"
    yield "    static const Kernel *const kernels[] = {\n    "
    yield "    ".join(entries)
    yield "    };\n    return kernels;\n}\n"


def _function(function: RowFunction) -> str:
    if not 1 <= function.arguments <= BUFFERS:
        raise ValueError(f"{function.name} has {function.arguments} arguments, not 1 to {BUFFERS}")
    # Rows follow each other without padding: a vector may begin at any element.
    source = re.sub(r"\baligned\(\d+\)", "aligned(1)", function.source)
    source, found = re.subn(rf"\bvoid\s+{function.name}\s*\(", r"static \g<0>", source)
    if found != 1:
        raise ValueError(f"the source of {function.name} defines it {found} times")
    arguments = ",\n".join(
        f"(void *)((char *)call->buffers[{i}] + row * call->numbers[{i}])"
        for i in range(function.arguments)
    ).replace("\n", "\n" + " " * 12)
    return f"\n{source.rstrip()}\n{WRAPPER.format(name=function.name, arguments=arguments)}"
