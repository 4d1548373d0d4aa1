"""Device: what the shared GPU backend asks of a driver, OpenCL's or Metal's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Groups = tuple[int, int, int]
"""How many groups of work items a launch has, in three dimensions."""


@dataclass(frozen=True)
class About:
    """What a device is, and has."""

    name: str
    driver: str
    """Whatever changes when compiled programs may turn out otherwise: names and versions."""
    memory: int
    """Bytes that buffers may take together."""
    largest: int
    """Bytes of the largest buffer."""
    items: int
    """The most work items of one group."""
    local: int
    """Bytes of memory that a group shares."""
    half: bool
    """Whether it computes in half precision."""
    wide: Sequence[int]
    """Lengths of vectors that its language knows, of 1, 4 and 8; the likeliest to be fast first."""
    alignment: int = 64
    """Of a view within its memory, in bytes."""


class Memory(Protocol):
    """A piece of the device's memory, or a view of a part of one."""

    nbytes: int


Argument = Memory | int | float | None
"""Of a kernel: whole numbers are passed as 32-bit ones, others as float32; None is a null pointer,
which the kernel doesn't read."""


class Launch(Protocol):
    """A kernel with its arguments, ready to run as often as wanted."""

    def __call__(self, groups: Groups) -> None:
        """Run it after whatever was launched before; doesn't wait for it."""


class Program(Protocol):
    """Compiled source."""

    def launch(self, kernel: str, arguments: Sequence[Argument], items: int) -> Launch:
        """One of its kernels over groups of `items` work items, which lie in the first dimension.

        Raises BackendError where there is no such kernel.
        """


class Device(Protocol):
    """One device with one queue: what is asked of it is done in order.

    Not thread-safe. Whatever the driver refuses is raised as BackendError, or as FitError where it
    has no memory left; after `close` nothing may be called.
    """

    about: About

    def allocate(self, nbytes: int) -> Memory:
        """Memory of its own, with anything in it."""

    def hold(self, data: NDArray[np.generic]) -> Memory:
        """Memory with these bytes, which nobody changes until `close`: the very same where the
        device can use them in place, else a copy."""

    def view(self, memory: Memory, offset: int, nbytes: int) -> Memory:
        """A part of memory that was allocated; `offset` is a multiple of `about.alignment`."""

    def write(
        self, memory: Memory, data: memoryview | NDArray[np.generic], offset: int = 0
    ) -> None:
        """Copy bytes to the device; they may change as soon as this returns."""

    def read(self, memory: Memory, out: NDArray[np.generic]) -> None:
        """Wait for all that was launched before, and copy the first bytes of memory."""

    def copy(self, memory: Memory, source: int, target: int, nbytes: int) -> None:
        """Copy bytes within memory, between offsets that don't overlap; doesn't wait for it."""

    def program(self, source: str) -> Program:
        """Compile, or take from the cache what was compiled before. Raises BackendError with the
        first line of what the compiler said."""

    def finish(self) -> None:
        """Wait until all that was launched is done."""

    def close(self) -> None:
        """Give everything back to the driver. Closing twice is harmless."""
