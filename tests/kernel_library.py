"""Compiles the CPU kernels for a processor and calls one of them, as the engine would."""

from __future__ import annotations

import ctypes
import functools
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgellm.errors import BackendError
from edgellm_backends.cpu import library, target
from edgellm_backends.cpu.engine import Step

WARNINGS = ["-fvisibility=default", "-Wall", "-Wextra", "-Werror"]


class Call(ctypes.Structure):
    _fields_ = [
        ("buffers", ctypes.c_void_p * 16),
        ("numbers", ctypes.c_int64 * 16),
        ("reals", ctypes.c_float * 4),
    ]


CALL, STEP = ctypes.POINTER(Call), ctypes.POINTER(Step)


class Kernel(ctypes.Structure):
    _fields_ = [
        ("parts", ctypes.CFUNCTYPE(ctypes.c_int, CALL, STEP)),
        ("run", ctypes.CFUNCTYPE(None, CALL, STEP, ctypes.c_int, ctypes.c_int)),
        ("scratch", ctypes.CFUNCTYPE(ctypes.c_size_t, CALL, STEP)),
    ]


@functools.cache
def targets() -> list[str]:
    """The targets that this machine can run, plainest first."""
    return [each.name for each in reversed(target.TARGETS) if not target.missing(each)]


def compile_object(name: str, source: Path, out: Path) -> None:
    """Make a shared object of C for a target, with the flags that bundles are built with and all
    warnings as errors. Skips without a compiler."""
    processor = target.find(name)
    try:
        tools = library.toolchain(processor)
    except BackendError as error:
        pytest.skip(str(error))
    made = out.with_suffix(".o")
    flags = [flag for flag in library.FLAGS if flag != "-w"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "FLAGS", (*flags, *WARNINGS))
        library._compile(tools, processor, source, made)
    halves = library.compiled(tools, processor, library.KERNELS / "half.c")
    library._link(tools, processor, [made, halves], out)


@functools.cache
def build(processor: str, name: str) -> ctypes.CDLL:
    """The kernels of one file (`linear` for linear.c), compiled once a session."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / f"{Path(name).name}.so"
        compile_object(processor, library.KERNELS / f"{name}.c", out)
        return ctypes.CDLL(str(out))


def aligned(size: int) -> NDArray[np.uint8]:
    """Bytes that begin at a multiple of 64."""
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


def call(
    built: ctypes.CDLL,
    kernel: str,
    buffers: Sequence[NDArray[np.generic] | None],
    numbers: Sequence[int] = (),
    reals: Sequence[float] = (),
    *,
    rows: int = 1,
    threads: int = 1,
    tokens: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    slots: Sequence[int] | None = None,
    context: int = 16,
    slot_count: int = 1,
    kv_int8: bool = False,
    from_memory: bool = False,
    scratch: NDArray[np.uint8] | None = None,
    seed: int = 0,
) -> int:
    """Run every part of a kernel's call, in an order drawn from `seed`; returns their number.

    Arrays are written in place. Without `positions`, rows stand at 0, 1, …; slots are 0. `scratch`
    is for kernels that hand something to the next one there; the others get their own.
    """
    for buffer in buffers:
        assert buffer is None or buffer.flags.c_contiguous
    integers = [
        np.asarray(values if values is not None else default, np.int32)
        for values, default in (
            (tokens, [0] * rows),
            (positions, list(range(rows))),
            (slots, [0] * rows),
        )
    ]
    assert all(array.size == rows for array in integers)
    step = Step(
        rows,
        threads,
        *(array.ctypes.data for array in integers),
        context,
        slot_count,
        kv_int8,
        from_memory,
    )
    order = Call()
    for i, buffer in enumerate(buffers):
        order.buffers[i] = None if buffer is None else buffer.ctypes.data
    for i, number in enumerate(numbers):
        order.numbers[i] = number
    for i, real in enumerate(reals):
        order.reals[i] = real
    found = Kernel.in_dll(built, f"edge_{kernel}")
    if found.scratch:
        needed = found.scratch(order, step)
        scratch = aligned(needed) if scratch is None else scratch
        assert scratch.size >= needed
        step.scratch, step.scratch_bytes = scratch.ctypes.data, scratch.size
    parts = found.parts(order, step)
    assert 1 <= parts <= 65535
    sequence = list(range(parts))
    random.Random(seed).shuffle(sequence)
    for part in sequence:
        found.run(order, step, part, parts)
    return parts


def quantise(x: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Rows of activations as edge.h describes them: codes, scales, sums, halves; (rows, bytes)."""
    rows, width = x.shape
    blocks = x.reshape(rows, -1, 32)
    scale = (np.abs(blocks).max(axis=2) / np.float32(127)).astype(np.float32)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    code = np.clip(np.rint(blocks * inverse[:, :, None]), -127, 127).astype(np.int8)
    return quantised_rows(code.reshape(rows, width), scale)


def quantised_rows(code: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Put codes (rows, K) and scales (rows, K/32) together with their sums."""
    rows, width = code.shape
    blocks = code.reshape(rows, -1, 32).astype(np.int32)
    fields = (code, scale, blocks.sum(axis=2), blocks[:, :, :16].sum(axis=2))
    packed = np.zeros((rows, (width + width // 32 * 12 + 63) // 64 * 64), np.uint8)
    at = 0
    for field in fields:
        array = np.ascontiguousarray(field, field.dtype if field.itemsize != 8 else np.int32)
        raw = array.view(np.uint8).reshape(rows, -1)
        packed[:, at : at + raw.shape[1]] = raw
        at += raw.shape[1]
    return packed
