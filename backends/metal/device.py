"""Metal's device as the shared GPU backend asks for one: memory, programs and launches in order.

Memory is shared with the processor, so weights are used where the bundle is mapped. Launches are
written into a command buffer, which is handed over when it is full or something is waited for.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgellm import memory
from edgellm.errors import BackendError, FitError

from ..gpu.device import About, Argument, Groups, Memory
from . import objc
from .objc import Range, Size, message, send

ITEMS = 1024
"""The most threads of a group on every GPU that runs macOS; a kernel may allow fewer."""
VECTORS = (4, 1)
"""Metal's language has no longer ones."""
ALIGNMENT = 32
"""Of constants in a buffer: 4 bytes on Apple's GPUs, 32 on others (Metal Feature Set Tables)."""
ARENA = 1 << 16
"""Bytes of the buffers that hold launches' numbers."""
AT_ONCE = 64
"""Launches in a command buffer: the GPU begins with them while the next ones are written."""
EXACT = 0
"""MTLMathModeSafe."""
FAILED = 5
"""MTLCommandBufferStatusError."""
NO_MEMORY = 8
FAULTS = {
    1: "an internal error",
    2: "a kernel ran for too long",
    3: "a kernel reached out of its memory",
    4: "the system has taken the GPU away from this process",
    7: "this process may not use the GPU",
    NO_MEMORY: "the GPU's memory is full",
    9: "a buffer was gone",
    11: "the GPU has been removed",
    12: "a kernel's stack is full",
}
"""MTLCommandBufferError."""


@dataclass
class Place:
    """Implements `edgellm_backends.gpu.device.Memory`: a buffer from `offset` bytes on."""

    buffer: int
    offset: int
    nbytes: int
    address: int
    """As the processor sees it."""


@dataclass(frozen=True)
class Binding:
    """A kernel's pipeline and what is bound for it, as the encoder takes both."""

    pipeline: int
    buffers: ctypes.Array[ctypes.c_void_p]
    offsets: ctypes.Array[ctypes.c_ulong]
    range: Range
    items: Size


class Program:
    """Implements `edgellm_backends.gpu.device.Program`."""

    def __init__(self, device: MetalDevice, library: int) -> None:
        self._device, self._library = device, library
        self._pipelines: dict[str, int] = {}

    def launch(
        self, kernel: str, arguments: Sequence[Argument], items: int
    ) -> Callable[[Groups], None]:
        pipeline = self._pipelines.get(kernel)
        if pipeline is None:
            pipeline = self._pipelines[kernel] = self._device.pipeline(self._library, kernel)
        most = send(pipeline, "maxTotalThreadsPerThreadgroup")
        if items > most:
            raise BackendError(f"this GPU runs {kernel} with {most} threads a group, not {items}")
        places = [self._device.bound(argument) for argument in arguments]
        count = len(places)
        binding = Binding(
            pipeline,
            (ctypes.c_void_p * count)(*(place.buffer for place in places)),
            (ctypes.c_ulong * count)(*(place.offset for place in places)),
            Range(0, count),
            Size(items, 1, 1),
        )
        return partial(self._device.encode, binding)


class MetalDevice:
    """Implements `edgellm_backends.gpu.device.Device`."""

    def __init__(self) -> None:
        """Raises BackendError where there is no Metal."""
        device = objc.default_device()
        if device is None:
            raise BackendError("no Metal on this machine: it is a part of macOS")
        self._device: int | None = device
        self._owned: list[int] = [device]  # objects to be released, the last one first
        self._encoder = self._command = self._encoded = 0
        self._committed: list[int] = []
        self._held: list[NDArray[np.generic]] = []
        self._programs: dict[str, Program] = {}
        self._set_pipeline = message("setComputePipelineState:")
        self._set_buffers = message("setBuffers:offsets:withRange:")
        self._dispatch = message("dispatchThreadgroups:threadsPerThreadgroup:")
        try:
            self.about = self._described(device)
            self._queue = self._own(send(device, "newCommandQueue"))
            if not self._queue:
                raise BackendError(f"{self.about.name} gives no command queue")
            self._nothing = self.allocate(ALIGNMENT)
            self._numbers, self._numbers_end = self.allocate(ARENA), 0
        except BaseException:
            self.close()
            raise

    def _described(self, device: int) -> About:
        with objc.pool():
            name = objc.text_of(send(device, "name"))
        return About(
            name=name,
            driver=f"{name}, macOS {platform.mac_ver()[0]}",
            memory=send(device, "recommendedMaxWorkingSetSize"),
            largest=send(device, "maxBufferLength"),
            items=ITEMS,
            local=send(device, "maxThreadgroupMemoryLength"),
            half=True,
            wide=VECTORS,
            alignment=ALIGNMENT,
        )

    # --- memory ---------------------------------------------------------------------------------

    def allocate(self, nbytes: int) -> Place:
        self._check_fits(nbytes)
        return self._memory(
            send(self._running(), "newBufferWithLength:options:", max(nbytes, 1), 0), 0, nbytes
        )

    def hold(self, data: NDArray[np.generic]) -> Place:
        return self._in_place(data) or self._copied(data)

    def _in_place(self, data: NDArray[np.generic]) -> Place | None:
        """The pages of a mapped file that hold the bytes, shared with the GPU; None where that
        isn't possible: Metal wants whole pages of one mapping, and no memory of malloc's."""
        if not _is_mapped(data):
            return None
        address, page = int(data.ctypes.data), mmap.PAGESIZE
        start = address // page * page
        length = -(-(address + data.nbytes) // page) * page - start
        self._check_fits(length)
        make = message("newBufferWithBytesNoCopy:length:options:deallocator:")
        buffer = make(self._running(), start, length, 0, None)
        # The GPU of a virtual machine may give an empty buffer and no error.
        if send(buffer, "length") < length:
            send(buffer, "release")
            return None
        self._held.append(data)
        return self._memory(buffer, address - start, data.nbytes)

    def _copied(self, data: NDArray[np.generic]) -> Place:
        made = self.allocate(data.nbytes)
        self.write(made, data)
        return made

    def view(self, memory: Memory, offset: int, nbytes: int) -> Place:
        whole = _place(memory)
        return Place(whole.buffer, whole.offset + offset, nbytes, whole.address + offset)

    def write(
        self, memory: Memory, data: memoryview | NDArray[np.generic], offset: int = 0
    ) -> None:
        self.finish()
        raw = np.frombuffer(data, np.uint8)
        ctypes.memmove(_place(memory).address + offset, raw.ctypes.data, raw.nbytes)

    def read(self, memory: Memory, out: NDArray[np.generic]) -> None:
        self.finish()
        ctypes.memmove(out.ctypes.data, _place(memory).address, out.nbytes)

    def copy(self, memory: Memory, source: int, target: int, nbytes: int) -> None:
        self.finish()
        address = _place(memory).address
        ctypes.memmove(address + target, address + source, nbytes)

    def _check_fits(self, nbytes: int) -> None:
        about = self.about
        if nbytes > about.largest:
            raise FitError(
                f"{about.name} has buffers of up to {memory.size(about.largest)}, needed is one of "
                f"{memory.size(nbytes)}; {memory.REMEDY}"
            )
        taken = send(self._running(), "currentAllocatedSize")
        if taken + nbytes > about.memory:
            raise FitError(
                f"{about.name} lets programs use {memory.size(about.memory)}, needed is "
                f"{memory.size(taken + nbytes)}; {memory.REMEDY}"
            )

    def _memory(self, buffer: int | None, offset: int, nbytes: int) -> Place:
        if buffer is None:
            raise FitError(
                f"{self.about.name} has no memory left for {memory.size(nbytes)}; {memory.REMEDY}"
            )
        self._own(buffer)
        return Place(buffer, offset, nbytes, (send(buffer, "contents") or 0) + offset)

    # --- programs -------------------------------------------------------------------------------

    def program(self, source: str) -> Program:
        if source not in self._programs:
            self._programs[source] = Program(self, self._compiled(source))
        return self._programs[source]

    def _compiled(self, source: str) -> int:
        """A library. Metal itself keeps what it has compiled from one start to the next."""
        error = ctypes.c_void_p()
        with objc.pool():
            options = send(objc.class_named("MTLCompileOptions"), "new")
            # By default Metal's mathematics is fast, and NaN and infinity may be anything.
            if objc.responds(options, "setMathMode:"):
                send(options, "setMathMode:", EXACT)
            else:
                send(options, "setFastMathEnabled:", False)
            library = send(
                self._running(),
                "newLibraryWithSource:options:error:",
                *(objc.string(source), options, ctypes.byref(error)),
            )
            send(options, "release")
            if not library:
                said = objc.text_of(send(error.value, "localizedDescription")).splitlines()
                first = next((line for line in said if "error" in line), said[0] if said else "")
                raise BackendError(f"Metal cannot compile the kernels: {first.strip()}")
        return self._own(library)

    def pipeline(self, library: int, kernel: str) -> int:
        """What runs a kernel. Raises BackendError where the library hasn't it, or it can't run."""
        error = ctypes.c_void_p()
        with objc.pool():
            function = send(library, "newFunctionWithName:", objc.string(kernel))
            if not function:
                raise BackendError(f"there is no kernel {kernel!r}")
            pipeline = send(
                self._running(),
                "newComputePipelineStateWithFunction:error:",
                *(function, ctypes.byref(error)),
            )
            send(function, "release")
            if not pipeline:
                said = objc.text_of(send(error.value, "localizedDescription"))
                raise BackendError(f"{self.about.name} cannot run {kernel}: {said}")
        return self._own(pipeline)

    def bound(self, argument: Argument) -> Place:
        """Where a kernel finds an argument; what isn't there is some memory nevertheless, for Metal
        wants every place filled."""
        if argument is None:
            return self._nothing
        if not isinstance(argument, int | float):
            return _place(argument)
        number = np.array(argument, np.int32 if isinstance(argument, int) else np.float32)
        if self._numbers_end + ALIGNMENT > self._numbers.nbytes:
            self._numbers, self._numbers_end = self.allocate(ARENA), 0
        place = self.view(self._numbers, self._numbers_end, number.nbytes)
        self._numbers_end += ALIGNMENT
        # A new place: nothing that was launched before reads it.
        ctypes.memmove(place.address, number.ctypes.data, number.nbytes)
        return place

    # --- launches -------------------------------------------------------------------------------

    def encode(self, binding: Binding, groups: Groups) -> None:
        """Write a launch into the command buffer."""
        if not self._encoder:
            self._begin()
        encoder = self._encoder
        self._set_pipeline(encoder, binding.pipeline)
        self._set_buffers(encoder, binding.buffers, binding.offsets, binding.range)
        self._dispatch(encoder, Size(*groups), binding.items)
        self._encoded += 1
        if self._encoded == AT_ONCE:
            self._commit()

    def _begin(self) -> None:
        self._running()
        with objc.pool():
            self._command = send(send(self._queue, "commandBuffer"), "retain")
            self._encoder = send(send(self._command, "computeCommandEncoder"), "retain")
        if not self._encoder:
            raise BackendError(f"{self.about.name} takes no commands")

    def _commit(self) -> None:
        if not self._encoder:
            return
        encoder, self._encoder, self._encoded = self._encoder, 0, 0
        send(encoder, "endEncoding")
        send(encoder, "release")
        send(self._command, "commit")
        self._committed.append(self._command)

    def finish(self) -> None:
        self._running()
        self._commit()
        committed, self._committed = self._committed, []
        if not committed:
            return
        send(committed[-1], "waitUntilCompleted")
        fault = None
        for command in committed:
            if send(command, "status") == FAILED and fault is None:
                fault = self._fault(command)
            send(command, "release")
        if fault is not None:
            raise fault

    def _fault(self, command: int) -> BackendError | FitError:
        with objc.pool():
            error = send(command, "error")
            code, said = send(error, "code"), objc.text_of(send(error, "localizedDescription"))
        name = FAULTS.get(code, f"error {code}")
        text = f"{self.about.name} has given up the model's work: {name} ({said})"
        if code == NO_MEMORY:
            return FitError(f"{text}; {memory.REMEDY}")
        return BackendError(text)

    def close(self) -> None:
        if self._device is None:
            return
        with contextlib.suppress(BackendError, FitError):  # nobody asks for the results any more
            self.finish()
        self._device = None
        for owned in reversed(self._owned):
            send(owned, "release")
        self._owned.clear()
        self._held.clear()

    def _own(self, made: int | None) -> int:
        if made:
            self._owned.append(made)
        return made or 0

    def _running(self) -> int:
        if self._device is None:
            raise ValueError("the device has been closed")
        return self._device


def _place(memory: Memory) -> Place:
    assert isinstance(memory, Place)
    return memory


def _is_mapped(data: NDArray[np.generic]) -> bool:
    """Whether an array lies in a mapped file."""
    owner: object = data
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    return isinstance(owner, mmap.mmap)
