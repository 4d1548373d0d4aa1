"""An OpenCL device at work: implements `edgellm_backends.gpu.device.Device`."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import BackendError

from ..gpu.binaries import BinaryCache
from ..gpu.device import Argument, Groups, Memory
from .library import check, error_of, library
from .platforms import Found

READ_WRITE = 1
REGION = 0x1220
BUILD_LOG, BINARY_SIZES, BINARIES = 0x1183, 0x1165, 0x1166
OPTIONS = b"-cl-std=CL1.2"
LOST = "the device doesn't answer any more; start again, and if it happens again, another driver"


class Buffer:
    """Implements `edgellm_backends.gpu.device.Memory`."""

    def __init__(self, id: int, nbytes: int) -> None:
        self.id, self.nbytes = id, nbytes


class Program:
    """Implements `edgellm_backends.gpu.device.Program`."""

    def __init__(self, device: OpenCLDevice, id: int) -> None:
        self.device, self.id = device, id

    def launch(
        self, kernel: str, arguments: Sequence[Argument], items: int
    ) -> Callable[[Groups], None]:
        device, where = self.device, f"{self.device.about.name}: kernel {kernel}"
        error = ctypes.c_int32()
        made = device.api.clCreateKernel(self.id, kernel.encode(), ctypes.byref(error))
        check(error.value, where)
        device.releases.append((device.api.clReleaseKernel, made))
        for index, argument in enumerate(arguments):
            check(device.api.clSetKernelArg(made, index, *_argument(argument)), where)
        return device.launcher(made, items, where)


class OpenCLDevice:
    """Implements `edgellm_backends.gpu.device.Device`."""

    def __init__(self, found: Found) -> None:
        self.about, self.api = found.about, library()
        self.releases: list[tuple[Callable[[int], int], int]] = []
        """What is to be given back, in reverse order."""
        self._cache = BinaryCache("opencl", self.about.driver)
        self._programs: dict[str, Program] = {}
        self._device = (ctypes.c_void_p * 1)(found.id)
        error = ctypes.c_int32()
        self._context = self.api.clCreateContext(
            None, 1, self._device, None, None, ctypes.byref(error)
        )
        check(error.value, f"{self.about.name}: opening it")
        self.releases.append((self.api.clReleaseContext, self._context))
        self._queue = self.api.clCreateCommandQueue(self._context, found.id, 0, ctypes.byref(error))
        try:
            check(error.value, f"{self.about.name}: opening it")
        except BaseException:
            self.close()
            raise
        self.releases.append((self.api.clReleaseCommandQueue, self._queue))

    # --- memory ---------------------------------------------------------------------------------

    def allocate(self, nbytes: int) -> Buffer:
        error = ctypes.c_int32()
        made = self.api.clCreateBuffer(self._context, READ_WRITE, nbytes, None, ctypes.byref(error))
        check(error.value, f"{self.about.name}: {nbytes} bytes")
        self.releases.append((self.api.clReleaseMemObject, made))
        return Buffer(made, nbytes)

    def hold(self, data: NDArray[np.generic]) -> Buffer:
        made = self.allocate(data.nbytes)
        self.write(made, data)
        return made

    def view(self, memory: Memory, offset: int, nbytes: int) -> Buffer:
        region = (ctypes.c_size_t * 2)(offset, nbytes)
        error = ctypes.c_int32()
        made = self.api.clCreateSubBuffer(
            _id(memory), READ_WRITE, REGION, region, ctypes.byref(error)
        )
        check(error.value, f"{self.about.name}: {nbytes} bytes at {offset}")
        self.releases.append((self.api.clReleaseMemObject, made))
        return Buffer(made, nbytes)

    def write(
        self, memory: Memory, data: memoryview | NDArray[np.generic], offset: int = 0
    ) -> None:
        array = np.frombuffer(data, np.uint8)
        self._check(
            self.api.clEnqueueWriteBuffer(
                *(self._queue, _id(memory), 1, offset, array.size, array.ctypes.data),
                *(0, None, None),
            )
        )

    def read(self, memory: Memory, out: NDArray[np.generic]) -> None:
        self._check(
            self.api.clEnqueueReadBuffer(
                self._queue, _id(memory), 1, 0, out.nbytes, out.ctypes.data, 0, None, None
            )
        )

    def copy(self, memory: Memory, source: int, target: int, nbytes: int) -> None:
        self._check(
            self.api.clEnqueueCopyBuffer(
                *(self._queue, _id(memory), _id(memory), source, target, nbytes),
                *(0, None, None),
            )
        )

    # --- programs -------------------------------------------------------------------------------

    def program(self, source: str) -> Program:
        if source not in self._programs:
            kept = self._cache.find(source)
            made = self._from_binary(kept) if kept is not None else None
            self._programs[source] = Program(self, made or self._from_source(source))
        return self._programs[source]

    def _from_binary(self, binary: bytes) -> int | None:
        """None where the driver doesn't take it any more."""
        length = ctypes.c_size_t(len(binary))
        pointer = ctypes.c_char_p(binary)
        error = ctypes.c_int32()
        made: int | None = self.api.clCreateProgramWithBinary(
            *(self._context, 1, self._device, ctypes.byref(length), ctypes.byref(pointer), None),
            ctypes.byref(error),
        )
        if error.value or not made:
            return None
        self.releases.append((self.api.clReleaseProgram, made))
        return None if self._build(made) else made

    def _from_source(self, source: str) -> int:
        text = ctypes.c_char_p(source.encode())
        error = ctypes.c_int32()
        made: int = self.api.clCreateProgramWithSource(
            self._context, 1, ctypes.byref(text), None, ctypes.byref(error)
        )
        check(error.value, f"{self.about.name}: compiling")
        self.releases.append((self.api.clReleaseProgram, made))
        code = self._build(made)
        if code:
            said = next((line for line in self._log(made).splitlines() if "error" in line), None)
            where = f"{self.about.name}: its compiler fails"
            raise BackendError(f"{where}: {said.strip()}") if said else error_of(code, where)
        binary = self._binary(made)
        if binary:
            self._cache.keep(source, binary)
        return made

    def _build(self, program: int) -> int:
        code: int = self.api.clBuildProgram(program, 1, self._device, OPTIONS, None, None)
        return code

    def _log(self, program: int) -> str:
        size = ctypes.c_size_t()
        asked = (program, self._device[0], BUILD_LOG)
        self.api.clGetProgramBuildInfo(*asked, 0, None, ctypes.byref(size))
        text = ctypes.create_string_buffer(min(size.value, 1 << 20) + 1)
        self.api.clGetProgramBuildInfo(*asked, len(text) - 1, text, None)
        return text.value.decode(errors="replace")

    def _binary(self, program: int) -> bytes | None:
        """As the driver gives it; None where it gives none."""
        size = ctypes.c_size_t()
        width = ctypes.sizeof(size)
        if self.api.clGetProgramInfo(program, BINARY_SIZES, width, ctypes.byref(size), None):
            return None
        if not 0 < size.value < 1 << 30:
            return None
        binary = ctypes.create_string_buffer(size.value)
        pointer = ctypes.c_void_p(ctypes.addressof(binary))
        width = ctypes.sizeof(pointer)
        if self.api.clGetProgramInfo(program, BINARIES, width, ctypes.byref(pointer), None):
            return None
        return binary.raw

    # --- running --------------------------------------------------------------------------------

    def launcher(self, kernel: int, items: int, where: str) -> Callable[[Groups], None]:
        """What enqueues a kernel whose arguments are set."""
        local = (ctypes.c_size_t * 3)(items, 1, 1)
        enqueue = self.api.clEnqueueNDRangeKernel
        # Converted once, not at every launch.
        queue, kernel_ = ctypes.c_void_p(self._queue), ctypes.c_void_p(kernel)
        three, none = ctypes.c_uint32(3), ctypes.c_uint32(0)
        sizes: dict[Groups, Any] = {}

        def launch(groups: Groups) -> None:
            size = sizes.get(groups)
            if size is None:
                x, y, z = groups
                size = sizes[groups] = (ctypes.c_size_t * 3)(x * items, y, z)
            code = enqueue(queue, kernel_, three, None, size, local, none, None, None)
            if code:
                raise error_of(code, where)

        return launch

    def finish(self) -> None:
        self._check(self.api.clFinish(self._queue))

    def close(self) -> None:
        self._programs.clear()
        while self.releases:
            release, id = self.releases.pop()
            release(id)

    def _check(self, code: int) -> None:
        """Of a call that waits: what was launched before may have failed."""
        check(code, f"{self.about.name}: {LOST}")


def _id(memory: Memory) -> int:
    assert isinstance(memory, Buffer)
    return memory.id


def _argument(argument: Argument) -> tuple[int, Any]:
    """Size and address of a kernel's argument."""
    value: ctypes.c_int32 | ctypes.c_float | ctypes.c_void_p
    if argument is None:
        value = ctypes.c_void_p(None)
    elif isinstance(argument, int):
        value = ctypes.c_int32(argument)
    elif isinstance(argument, float):
        value = ctypes.c_float(argument)
    else:
        value = ctypes.c_void_p(_id(argument))
    return ctypes.sizeof(value), ctypes.byref(value)
