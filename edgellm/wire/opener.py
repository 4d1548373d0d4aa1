"""Lines and sockets from the client's side: what a URL names, opened."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from edgellm.channel import query
from edgellm.connection import Wire
from edgellm.errors import UsageError
from edgellm.wire import serial_url, serial_wire
from edgellm.wire.socket_wire import CHUNK, SocketWire

WRITE_TIMEOUT = 30.0
"""Seconds that a line may take too little of what is sent."""


class ClosableWire(Wire, Protocol):
    """See `edgellm.connection.Wire`."""

    async def close(self) -> None:
        """Send what is still waiting, unless that takes too long, and let go of the line."""


def opener(url: str) -> tuple[Callable[[], Awaitable[ClosableWire]], float | None]:
    """What opens a line, and its rate if it has one. Raises UsageError for another URL."""
    if serial_url.is_serial(url):
        line = serial_url.parse(url)
        settings: dict[str, Any] = {"timeout": serial_wire.POLL, "exclusive": True}
        if line.scheme != "rfc2217":  # it has a time-out of its own
            settings["write_timeout"] = WRITE_TIMEOUT

        async def open_port() -> ClosableWire:
            port = await asyncio.to_thread(line.open, **settings)
            return serial_wire.wire(port, WRITE_TIMEOUT)

        return open_port, line.baud
    scheme, _, rest = url.partition("?")[0].partition(":")
    query(url, {})
    if scheme == "unix":
        path = unquote(rest.removeprefix("//"))
        if not path or "\0" in path:
            raise UsageError(f"{url}: no path; write unix:///path/to/socket")

        async def open_unix() -> ClosableWire:
            loop = asyncio.get_running_loop()
            return (await loop.create_unix_connection(_socket_wire, path))[1]

        return open_unix, None
    if scheme != "tcp":
        raise UsageError(f"{url}: unknown scheme {scheme!r}; known are serial, tcp, unix")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{url}: {error}") from error
    if not host or port is None or parts.path:
        raise UsageError(f"{url}: a host and a port are needed; write tcp://127.0.0.1:7070")

    async def open_tcp() -> ClosableWire:
        return (await asyncio.get_running_loop().create_connection(_socket_wire, host, port))[1]

    return open_tcp, None


def _socket_wire() -> SocketWire:
    return SocketWire(bytearray(CHUNK), WRITE_TIMEOUT, lambda wire: None)


def trouble_of(error: Exception) -> str:
    """Why a line can't be opened."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
