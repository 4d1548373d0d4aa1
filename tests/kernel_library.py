"""Compiles the CPU kernels for a processor and calls one of them, as the engine would."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import platform
import random
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgellm_backends.cpu.engine import Step

KERNELS = Path(__file__).resolve().parents[1] / "backends" / "cpu" / "kernels"
FLAGS = [
    *("-O3", "-fPIC", "-std=c11", "-ffp-contract=off", "-fno-math-errno"),
    *("-Wall", "-Wextra", "-Werror"),
]

# Each target's machine, its name for the compiler, and what /proc/cpuinfo says of a CPU of it.
TARGETS = {
    "sse4.2": ("x86_64", "x86_64_v2", {"sse4_2", "ssse3", "popcnt"}),
    "avx2": ("x86_64", "x86_64_v3", {"avx2", "fma", "f16c", "bmi2"}),
    "avxvnni": ("x86_64", "x86_64_v3+avxvnni", {"avx2", "fma", "f16c", "bmi2", "avx_vnni"}),
    "avx512vnni": (
        "x86_64",
        "x86_64_v4+avx512vnni",
        {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd", "avx512_vnni", "fma", "f16c"},
    ),
    "cortex_a53": ("aarch64", "cortex_a53", {"asimd"}),
    "cortex_a72": ("aarch64", "cortex_a72", {"asimd"}),
    "cortex_a76": ("aarch64", "cortex_a76", {"asimd", "asimddp", "fphp", "asimdhp"}),
    "i8mm": (
        "aarch64",
        "generic+v8.2a+dotprod+i8mm+fullfp16",
        {"asimd", "asimddp", "i8mm", "fphp", "asimdhp"},
    ),
}


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
    words: set[str] = set()
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.lower().startswith(("flags", "features")):
            words |= set(line.split(":")[1].split())
    machine = platform.machine()
    return [
        name for name, (arch, _, needs) in TARGETS.items() if arch == machine and needs <= words
    ]


def compile_object(target: str, source: Path, out: Path, *flags: str) -> None:
    """Compile C for a target; `flags` such as -c or -shared say to what. Skips without zig."""
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        pytest.skip("the ziglang wheel is not installed")
    zig = str(Path(spec.origin).with_name("zig"))
    machine, cpu, _ = TARGETS[target]
    triple = f"{machine}-linux-gnu.2.17"
    command = [zig, "cc", *FLAGS, *flags, "-target", triple, f"-mcpu={cpu}", f"-I{KERNELS}"]
    done = subprocess.run([*command, str(source), "-o", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@functools.cache
def build(target: str, name: str) -> ctypes.CDLL:
    """The kernels of one file (`linear` for linear.c), compiled once a session."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / f"{name}.so"
        compile_object(target, KERNELS / f"{name}.c", out, "-shared")
        return ctypes.CDLL(str(out))


def aligned(size: int) -> NDArray[np.uint8]:
    """Bytes that begin at a multiple of 64."""
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


def call(
    library: ctypes.CDLL,
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
        rows, threads, *(array.ctypes.data for array in integers), context, slot_count, kv_int8
    )
    order = Call()
    for i, buffer in enumerate(buffers):
        order.buffers[i] = None if buffer is None else buffer.ctypes.data
    for i, number in enumerate(numbers):
        order.numbers[i] = number
    for i, real in enumerate(reals):
        order.reals[i] = real
    found = Kernel.in_dll(library, f"edge_{kernel}")
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
