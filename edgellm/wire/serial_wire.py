"""Serial ports as wires: bytes to and from an open `serial.Serial` within the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from edgellm.errors import LinkError

CHUNK = 4096
"""Bytes read at once, and what a kernel's output buffer holds of a slow line."""
POLL = 0.2
"""Seconds that a thread waits for bytes; the longest time that closing a port takes."""
T = TypeVar("T")


def wire(port: Any, write_timeout: float) -> FileWire | PortWire:
    """A wire over an open port that has been told to wait POLL seconds in reading, and
    `write_timeout`, for which the device may take too little, in writing."""
    import serial

    # Subclasses, like spy://, want their own read and write to be called.
    if os.name == "posix" and type(port) is serial.Serial:
        return FileWire(port, write_timeout)
    return PortWire(port)


class FileWire:
    """A port that is a file the event loop can wait for; see `edgellm.connection.Wire`."""

    def __init__(self, port: Any, write_timeout: float) -> None:
        import fcntl
        import termios

        self._port = port
        self._fd: int = port.fileno()
        self._write_timeout = write_timeout
        self._writing = asyncio.Lock()
        self._stuck = False
        with contextlib.suppress(termios.error, OSError):  # unplugged again: reading tells it
            settings = termios.tcgetattr(self._fd)
            settings[0] |= termios.IGNBRK
            settings[2] &= ~termios.HUPCL  # DTR stays as it is when the port is closed
            settings[6][termios.VMIN] = 1  # reading nothing means that the device is gone
            # Nobody else may open it, also who doesn't ask for the lock.
            fcntl.ioctl(self._fd, termios.TIOCEXCL)
            termios.tcsetattr(self._fd, termios.TCSANOW, settings)

    async def read(self) -> bytes:
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = os.read(self._fd, CHUNK)
            except BlockingIOError:
                await _ready(self._fd, loop.add_reader, loop.remove_reader)
                continue
            except OSError as error:
                raise LinkError(f"unplugged ({error.strerror})") from error
            if not data:
                raise LinkError("unplugged")
            return data

    async def write(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        left = memoryview(data)
        async with self._writing:
            while left:
                try:
                    left = left[os.write(self._fd, left) :]
                except BlockingIOError:
                    self._stuck = True
                    try:
                        async with asyncio.timeout(self._write_timeout):
                            await _ready(self._fd, loop.add_writer, loop.remove_writer)
                    except TimeoutError as error:
                        waited = f"{self._write_timeout:.1f} s"
                        raise LinkError(f"the device has read too little for {waited}") from error
                    self._stuck = False
                except OSError as error:
                    raise LinkError(f"unplugged ({error.strerror})") from error

    async def close(self) -> None:
        import fcntl
        import termios

        if self._stuck:  # else closing waits until the device reads
            with contextlib.suppress(termios.error):
                termios.tcflush(self._fd, termios.TCOFLUSH)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._fd, termios.TIOCNXCL)
        self._port.close()


async def _ready(fd: int, add: Callable[..., object], remove: Callable[[int], object]) -> None:
    ready = asyncio.get_running_loop().create_future()

    def settle() -> None:
        if not ready.done():
            ready.set_result(None)

    add(fd, settle)
    try:
        await ready
    finally:
        remove(fd)


class PortWire:
    """A port that only threads can wait for; see `edgellm.connection.Wire`."""

    def __init__(self, port: Any) -> None:
        self._port = port
        self._threads = ThreadPoolExecutor(2, "serial")
        self._writing = asyncio.Lock()
        self._reading: asyncio.Future[bytes] | None = None
        self._echoes = port.port.startswith("loop:")
        self._echo = bytearray()  # sent and not yet come back

    async def read(self) -> bytes:
        while True:
            if self._reading is None:
                self._reading = self._call(self._read)
            data = await asyncio.shield(self._reading)  # a cancelled call's bytes are for the next
            self._reading = None
            if data := self._without_echo(data):
                return data

    async def write(self, data: bytes) -> None:
        async with self._writing:
            if self._echoes:
                self._echo += data
            await self._call(self._port.write, data)

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _read(self) -> bytes:
        data: bytes = self._port.read(max(1, min(self._port.in_waiting, CHUNK)))
        return data

    def _without_echo(self, data: bytes) -> bytes:
        kept = bytearray()
        for byte in data:
            if self._echo[:1] == bytes([byte]):
                del self._echo[0]
            else:
                kept.append(byte)
        return bytes(kept)

    def _close(self) -> None:
        if hasattr(self._port, "cancel_write"):
            self._port.cancel_write()
        self._threads.shutdown()
        self._port.close()

    def _call(self, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        def call() -> T:
            try:
                return function(*arguments)
            except Exception as error:  # as in opening
                raise LinkError(f"line lost: {error or type(error).__name__}") from error

        return asyncio.get_running_loop().run_in_executor(self._threads, call)
