"""Serial lines: the device link, by frames or by lines of text, on a port of this machine.

The URLs and their options are those of `edgellm.wire.serial_url`, and these:

    write_timeout=30             seconds that the device may take too little of what is sent
    priority=device              or person, batch: whose questions go before whose
    adapter=NAME                 of questions that choose none; see edgellm.adapter_choice

A port that isn't there yet, or is unplugged, is waited for. The kernel may give it another number
when it comes back: a name under /dev/serial/by-id leads to it all the same, and behind a plain name
like /dev/ttyACM0 the device is looked for by the USB identity that it had when it was opened. A
device that talks in frames is asked to say hello and goes on where it was; one that talks in lines
begins a new conversation.

Opening a port raises DTR and RTS, which resets some boards, and that can't be prevented. They are
then left alone, also when the port is closed, so that neither a restart of the service nor its
crash resets the board again; and they stay raised because boards with USB of their own send nothing
without DTR, and because most ESP32 boards are reset by one of the two without the other.

What isn't the device's is kept from the model, see `edgellm.link.strays`. Breaks, which a board
sends that is in reset or loses its power, are ignored, else they would read as zero bytes.

`loop://` is a plug that joins the line's two ends: what was sent comes back. Those bytes are
dropped, else the model would answer itself for ever.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import sys
import time
from pathlib import Path
from typing import Any

from edgellm import hookimpl
from edgellm.channel import Channel, Service, number, priority
from edgellm.connection import Connection, Wire
from edgellm.errors import LinkError
from edgellm.link.loose import say_hello
from edgellm.link.strays import SETTLE, Strays
from edgellm.wire import serial_ports, serial_url, serial_wire
from edgellm.wire.serial_wire import CHUNK, FileWire, PortWire

log = logging.getLogger(__name__)

KNOWN = {"write_timeout": "30", "priority": "device", "adapter": ""}
RETRY = 0.2
"""Seconds between two attempts to open a port: a board that is plugged in is served at once."""
REPLACED = 5.0
"""Seconds for which another device under the name is taken for one that only came back earlier."""
DENIED = (errno.EACCES, errno.EPERM)


@hookimpl
def edgellm_channel(url: str) -> Channel | None:
    return SerialChannel(url) if serial_url.is_serial(url) else None


class SerialChannel:
    """Serves one port, whenever it is there."""

    def __init__(self, url: str) -> None:
        """Raises UsageError for an option or a setting that can't be."""
        self.url = url
        self._line = serial_url.parse(url, KNOWN)
        options = self._line.options
        # A kernel buffer's room becomes visible only when it has run nearly empty.
        patience = number(url, "write_timeout", options["write_timeout"], 0.01, 1e6)
        self._timeout = patience + CHUNK * 10 / self._line.baud
        self._priority = priority(url, options["priority"])
        self._adapter = options["adapter"] or None
        self._settings: dict[str, Any] = {"timeout": serial_wire.POLL, "exclusive": True}
        if self._line.scheme != "rfc2217":  # it gives up after 5 s of its own
            self._settings["write_timeout"] = self._timeout
        self._names = itertools.count(1)
        self._device = Device(self._line.device)
        self._strays = Strays(self._tell)
        self._warned: set[str] = set()

    async def serve(self, service: Service) -> None:
        """Open the port and serve it, again and again, until cancelled."""
        framed = False
        while True:
            wire = await self._open()
            name = f"{self.url}#{next(self._names)}"
            self._strays.restart()
            filtered = FilteredWire(wire, self._strays)
            try:
                if framed:  # it may not know that the line was gone, and wait
                    await wire.write(say_hello())
                connection = Connection(
                    filtered,
                    service,
                    name,
                    priority=self._priority,
                    baud=self._line.baud,
                    adapter=self._adapter,
                )
                await connection.run()
                self._tell("closed at the other end")
            except LinkError as error:
                self._tell(str(error))
            except Exception:  # a bug met by one conversation must not end the line
                log.exception("%s failed", name)
            finally:
                await wire.close()
            if self._strays.framed is not None:
                framed = self._strays.framed
            await asyncio.sleep(RETRY)

    async def _open(self) -> FileWire | PortWire:
        trouble, times = "", 0
        while True:
            try:
                port, warnings = await asyncio.to_thread(self._opened)
                break
            except Exception as error:  # pyserial's handlers let through what they stumble over
                code = getattr(error, "errno", None)
                new = await asyncio.to_thread(_trouble, self._line.device, error)
            times = times + 1 if new == trouble else 1
            trouble = new
            # Between a port's birth and the group's right to it there are some milliseconds.
            if times == (2 if code in DENIED else 1):
                self._tell(trouble)
            await asyncio.sleep(RETRY)
        _tell(f"listening on {self._line.device} at {port.baudrate} baud")
        for warning in warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                self._tell(warning)
        return serial_wire.wire(port, self._timeout)

    def _opened(self) -> tuple[Any, list[str]]:
        if self._line.scheme:
            return self._line.open(**self._settings), []
        path = self._device.path()
        port = self._line.open(path, **self._settings)
        self._device.remember(path)
        found = [serial_ports.login(path), serial_ports.kernel_console(path)]
        return port, [f"{problem.text}; {problem.remedy}" for problem in found if problem]

    def _tell(self, text: str) -> None:
        _tell(f"{self._line.device}: {text}")


class Device:
    """A port's name, and the way to the device that was found there first."""

    def __init__(self, name: str, root: Path = serial_ports.ROOT) -> None:
        self._name = name
        self._root = root
        self._identity: tuple[str, str, str] | None = None
        self._gone: float | None = None  # since when

    def path(self) -> str:
        """Where the device is. Raises FileNotFoundError while it's away."""
        if self._identity is None:
            return self._name
        there = {port.identity: port.device for port in serial_ports.ports(self._root)}
        now = time.monotonic()
        if self._identity in there:
            self._gone = None
            return there[self._identity]
        if self._gone is None:
            self._gone = now
        if self._name in there.values() and now - self._gone < REPLACED:
            raise FileNotFoundError(errno.ENOENT, "another device has its name")
        return self._name

    def remember(self, path: str) -> None:
        """The device is the one that is at `path` now; behind a link it's the link that counts."""
        self._gone = None
        if not Path(self._name).is_symlink():
            found = serial_ports.find(path, self._root)
            self._identity = found.identity if found else None


class FilteredWire:
    """What of a wire is the device's; see `edgellm.connection.Wire`."""

    def __init__(self, wire: Wire, strays: Strays) -> None:
        self._wire = wire
        self._strays = strays
        self._ended = False

    async def read(self) -> bytes:
        while not self._ended:
            try:
                async with asyncio.timeout(SETTLE if self._strays.undecided else None):
                    data = await self._wire.read()
            except TimeoutError:
                kept = self._strays.settle()
            else:
                self._ended = not data
                kept = self._strays.receive(data) if data else self._strays.end()
            if kept:
                return kept
        return b""

    async def write(self, data: bytes) -> None:
        await self._wire.write(data)


def _trouble(device: str, error: Exception) -> str:
    """Why a port can't be opened, and what helps."""
    code = getattr(error, "errno", None)
    if code in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return "not there; waiting for it"
    if code in DENIED:
        denied = serial_ports.no_permission(device)
        return f"{denied.text}; {denied.remedy}" if denied else "no permission to open it"
    if code in (errno.EAGAIN, errno.EBUSY):
        others = serial_ports.holders(device)
        names = ", ".join(f"{other.program} (process {other.pid})" for other in others)
        return f"in use by {names or 'another program'}; waiting until it lets go"
    return f"cannot be opened, trying on: {error}"


def _tell(text: str) -> None:
    print(f"# {text}", file=sys.stderr, flush=True)
