"""Calls a kernel that was compiled for 64-bit Arm, in a process of its own under qemu."""

from __future__ import annotations

import functools
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from emulation import emulator
from numpy.typing import NDArray

from edgellm.errors import BackendError
from edgellm_backends.cpu import library, target

MAIN = Path(__file__).with_name("kernel_process.c")

# Of each target the plainest processor that has its instructions, as qemu calls it.
PROCESSORS = {
    "cortex-a53": "cortex-a53",
    "cortex-a72": "cortex-a72",
    "cortex-a76": "cortex-a76",
    "i8mm": "max",
}


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@functools.cache
def build(name: str, source: str, kernel: str) -> Path:
    """A program for a target around a kernel of one file ("linear" for linear.c).

    Skips without a compiler or qemu.
    """
    if emulator() is None:
        pytest.skip("qemu's emulation of aarch64 programs is not installed")
    made_for = target.find(name)
    try:
        tools = library.toolchain(made_for)
    except BackendError as error:
        pytest.skip(str(error))
    sources = (MAIN, library.KERNELS / f"{source}.c")
    objects = [library.compiled(tools, made_for, source) for source in sources]
    program = Path(_folder().name) / f"{name}-{kernel}"
    command = [*tools.linker, f"--defsym=kernel=edge_{kernel}", *objects, "-o", program]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


def call(
    name: str,
    source: str,
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
    processor: str | None = None,
) -> None:
    """As `kernel_library.call`, the last part first; fails if the kernel reads beyond a buffer.

    `processor` is another of qemu's than the target's own.
    """
    program = build(name, source, kernel)
    sizes = [-1 if buffer is None else buffer.nbytes for buffer in buffers]
    sizes += [-1] * (16 - len(sizes))
    order = struct.pack("6i16q128x", rows, threads, context, slot_count, kv_int8, 0, *sizes)
    order += struct.pack("16q", *numbers, *[0] * (16 - len(numbers)))
    order += struct.pack("4f", *reals, *[0.0] * (4 - len(reals)))
    given = ((tokens, [0] * rows), (positions, list(range(rows))), (slots, [0] * rows))
    for values, default in given:
        array = np.asarray(values if values is not None else default, np.int32)
        assert array.size == rows
        order += array.tobytes()
    order += b"".join(buffer.tobytes() for buffer in buffers if buffer is not None)
    command = [emulator() or "", "-cpu", processor or PROCESSORS[name], program]
    done = subprocess.run(command, input=order, capture_output=True)
    assert done.returncode == 0, f"edge_{kernel} for {name} ended with {done.returncode}"
    at = 0
    for buffer in buffers:
        if buffer is not None:
            flat = np.frombuffer(done.stdout, buffer.dtype, buffer.size, at)
            buffer[...] = flat.reshape(buffer.shape)
            at += buffer.nbytes
    assert at == len(done.stdout)
