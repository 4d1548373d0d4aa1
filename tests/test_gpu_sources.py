"""The texts that a bundle for a GPU carries."""

from __future__ import annotations

import msgpack
import pytest

from edgellm.errors import FormatError, UnsupportedError
from edgellm.graph import Argument, Buffer, Call, RowFunction, StepGraph
from edgellm_backends.gpu import sources
from edgellm_backends.opencl import OpenCLBackend

TWICE = "void row_0(__global float* data0_8, __global float* data1_8) {\n  // ...\n}"
GRAPH = StepGraph(
    buffers=(
        Buffer("weight", "w"),
        Buffer("row", nbytes=128),
        Buffer("row", nbytes=256),
    ),
    body=(
        Call("row_0", (Argument(2, 64), Argument(1)), (8,)),
        Call("row_0", (Argument(2, 64), Argument(0)), (8,)),
        Call("row_0", (Argument(2, 64), Argument(1)), (8,)),
    ),
    head=(),
    hidden=2,
    logits=2,
    functions=(RowFunction("row_0", TWICE, 2),),
)


def test_a_kernel_for_each_function_and_place() -> None:
    text = sources.row_source(GRAPH)
    assert text.count("void row_0(") == 1
    assert text.count("KERNEL(call_") == 2
    assert "(__global float*)(a0 + (GROUP(1) * 256 + 64))" in text
    assert "(__global float*)(a1 + (GROUP(1) * 128 + 0))" in text
    assert "(__global float*)(a1 + (GROUP(1) * 0 + 0))" in text
    assert "if (INDEX < 8)" in text


def test_texts_come_back() -> None:
    found = sources.texts(OpenCLBackend.language, GRAPH)
    assert sources.unpack(sources.pack(found), "x.edge") == found
    program = sources.program(found, ("norm.c",), WIDE=1, NORM_ITEMS=64)
    places = [program.index(part) for part in ("#define WIDE 1", "__kernel", "KERNEL(edge_norm")]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        msgpack.packb([]),
        msgpack.packb({"a": 1}),
        msgpack.packb({1: "a"}),
        msgpack.packb({"a": b"b"}),
        msgpack.packb({str(i): "" for i in range(100)}),
    ],
)
def test_other_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(FormatError, match=r"x\.edge: sources is"):
        sources.unpack(raw, "x.edge")


def test_texts_of_another_edgellm_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"x\.edge: version .* build the bundle anew"):
        sources.unpack(sources.pack({"version": "0"}), "x.edge")
