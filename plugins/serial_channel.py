"""Serial lines that speak line mode.

    serial:///dev/ttyACM0?baud=115200        a local port; a name under /dev/serial/by-id stays the
    serial://COM3                            same when the device is plugged in elsewhere
    rfc2217://192.168.1.5:2217               any URL that pyserial understands: a port of another
    socket://192.168.1.5:4001                machine, a port that is logged, one found by its USB
    spy:///dev/ttyUSB0?file=log.txt          identity, …
    hwgrep://2341:0043

Options, after a "?":

    baud=115200  bytesize=8  parity=N (E, O, M, S)  stopbits=1 (1.5, 2)
    rtscts=off  xonxoff=off      flow control
    dtr=on  rts=on               the control lines while the port is open
    write_timeout=30             seconds that the device may take too little of what is sent
    priority=device              or person, batch: whose questions go before whose

A port that isn't there yet, or is unplugged, is waited for. When it comes back a new conversation
begins: the board behind it was without power.

Opening a port raises DTR and RTS, which resets some boards, and that can't be prevented. They are
then left alone, also when the port is closed, so that a restart of the service doesn't reset the
board again; and they stay raised because boards with USB of their own send nothing without DTR.

`loop://` is a plug that joins the line's two ends: what was sent comes back. Those bytes are
dropped, else the model would answer itself for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import unquote

from edgellm import hookimpl
from edgellm.channel import Channel, Service, number, priority, query
from edgellm.connection import Connection
from edgellm.errors import LinkError, UsageError

log = logging.getLogger(__name__)

PYSERIAL = ("alt", "cp2110", "hwgrep", "loop", "rfc2217", "socket", "spy")
"""Schemes of pyserial's URL handlers."""
KNOWN = {
    "baud": "115200",
    "bytesize": "8",
    "parity": "N",
    "stopbits": "1",
    "rtscts": "off",
    "xonxoff": "off",
    "dtr": "on",
    "rts": "on",
    "write_timeout": "30",
    "priority": "device",
}
CHUNK = 4096
"""Bytes read at once, and what a kernel's output buffer holds of a slow line."""
RETRY = 0.5
"""Seconds between two attempts to open a port: a board that is plugged in is served at once."""
POLL = 0.2
"""Seconds that a thread waits for bytes; the longest time that closing a port takes."""
T = TypeVar("T")


@hookimpl
def edgellm_channel(url: str) -> Channel | None:
    return SerialChannel(url) if url.partition(":")[0] in ("serial", *PYSERIAL) else None


class SerialChannel:
    """Serves one port, whenever it is there."""

    def __init__(self, url: str) -> None:
        """Raises UsageError for an option or a setting that can't be."""
        self.url = url
        self._device, options = _parse(url)
        scheme, separator, _ = self._device.partition("://")
        if separator and scheme not in PYSERIAL:
            raise UsageError(f"{url}: unknown scheme {scheme!r}; known are {', '.join(PYSERIAL)}")
        baud = number(url, "baud", options["baud"], 1, 1e8)
        # A kernel buffer's room becomes visible only when it has run nearly empty.
        patience = number(url, "write_timeout", options["write_timeout"], 0.01, 1e6)
        self._timeout = patience + CHUNK * 10 / baud
        self._priority = priority(url, options["priority"])
        self._lines = {line: _flag(url, line, options[line]) for line in ("dtr", "rts")}
        self._settings = {
            "baudrate": int(baud),
            "bytesize": int(number(url, "bytesize", options["bytesize"], 5, 8)),
            "parity": options["parity"].upper(),
            "stopbits": number(url, "stopbits", options["stopbits"], 1, 2),
            "rtscts": _flag(url, "rtscts", options["rtscts"]),
            "xonxoff": _flag(url, "xonxoff", options["xonxoff"]),
            "timeout": POLL,
            "exclusive": True,
        }
        if scheme != "rfc2217":  # it gives up after 5 s of its own, and takes no other time
            self._settings["write_timeout"] = self._timeout
        _check(url, self._settings)
        self._names = itertools.count(1)

    async def serve(self, service: Service) -> None:
        """Open the port and serve it, again and again, until cancelled."""
        while True:
            wire = await self._open()
            name = f"{self.url}#{next(self._names)}"
            try:
                await Connection(wire, service, name, priority=self._priority).run()
                _tell(f"{self._device}: closed at the other end")
            except LinkError as error:
                _tell(f"{self._device}: {error}")
            except Exception:  # a bug met by one conversation must not end the line
                log.exception("%s failed", name)
            finally:
                await wire.close()
            await asyncio.sleep(RETRY)

    async def _open(self) -> FileWire | PortWire:
        told = ""
        while True:
            try:
                port = await asyncio.to_thread(self._opened)
                break
            except Exception as error:  # pyserial's handlers let through what they stumble over
                trouble = f"{self._device}: {_trouble(error)}"
            if trouble != told:
                told = trouble
                _tell(trouble)
            await asyncio.sleep(RETRY)
        _tell(f"listening on {self._device} at {port.baudrate} baud")
        return _wire(port, self._timeout)

    def _opened(self) -> Any:
        import serial

        port = serial.serial_for_url(self._device, do_not_open=True, **self._settings)
        for line, raised in self._lines.items():
            if not raised:
                setattr(port, line, False)
        port.open()
        return port


def _check(url: str, settings: dict[str, Any]) -> None:
    import serial

    try:
        serial.Serial(None, **settings)
    except ValueError as error:
        raise UsageError(f"{url}: {error}") from error


def _parse(url: str) -> tuple[str, dict[str, str]]:
    """What pyserial is to open, and our options; those of its URLs' own stay with them."""
    device, _, options = url.partition("?")
    scheme, _, rest = device.partition(":")
    if scheme.lower() == "serial":
        device = rest.removeprefix("//")
        if not device:
            raise UsageError(f"{url}: no port; write serial:///dev/ttyACM0 or serial://COM3")
        if "://" not in device:
            return unquote(device), query(url, KNOWN)
    ours: list[str] = []
    theirs: list[str] = []
    for option in filter(None, options.split("&")):
        (ours if option.partition("=")[0] in KNOWN else theirs).append(option)
    if theirs:
        device += "?" + "&".join(theirs)
    return device, query(f"{device.partition('?')[0]}?{'&'.join(ours)}", KNOWN)


def _flag(url: str, name: str, value: str) -> bool:
    if value not in ("on", "off", "1", "0"):
        raise UsageError(f"{url}: {name} is {value!r}; known are on, off")
    return value in ("on", "1")


def _trouble(error: Exception) -> str:
    """Why a port can't be opened, and what helps."""
    match getattr(error, "errno", None):
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            return "not there; waiting for it"
        case errno.EACCES | errno.EPERM:
            return "no permission; add this user to the port's group (often dialout)"
        case errno.EAGAIN | errno.EBUSY:
            return "in use by another program; waiting until it lets go"
        case _:
            return f"cannot be opened, trying on: {error}"


def _tell(text: str) -> None:
    print(f"# {text}", file=sys.stderr, flush=True)


def _wire(port: Any, write_timeout: float) -> FileWire | PortWire:
    import serial

    # Subclasses, like spy://, want their own read and write to be called.
    if os.name == "posix" and type(port) is serial.Serial:
        return FileWire(port, write_timeout)
    return PortWire(port)


class FileWire:
    """A port that is a file the event loop can wait for; see `edgellm.connection.Wire`."""

    def __init__(self, port: Any, write_timeout: float) -> None:
        import termios

        self._port = port
        self._fd: int = port.fileno()
        self._write_timeout = write_timeout
        self._writing = asyncio.Lock()
        self._stuck = False
        settings = termios.tcgetattr(self._fd)
        settings[2] &= ~termios.HUPCL  # DTR stays as it is when the port is closed
        settings[6][termios.VMIN] = 1  # reading nothing means that the device is gone
        with contextlib.suppress(termios.error):
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
        import termios

        if self._stuck:  # else closing waits until the device reads
            with contextlib.suppress(termios.error):
                termios.tcflush(self._fd, termios.TCOFLUSH)
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
