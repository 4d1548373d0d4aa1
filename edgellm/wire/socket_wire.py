"""Sockets as wires: what a peer sends and nobody has taken yet is bounded."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from edgellm.errors import LinkError

CHUNK = 1024
"""Bytes read at once; at most twice as many wait to be read."""
KEEPALIVE = 60
"""Seconds of silence after which the system asks whether a TCP peer still lives."""


class SocketWire(asyncio.BufferedProtocol):
    """A connected socket; see `edgellm.connection.Wire`.

    asyncio's own streams read 256 KiB at once, whatever their limit; this one holds what its client
    has sent and nobody has taken yet, and a client that is silent costs no buffer at all.
    """

    def __init__(
        self, chunk: bytearray, write_timeout: float, connected: Callable[[SocketWire], object]
    ) -> None:
        """`chunk` is where bytes arrive; wires may share it. `connected` gets the wire."""
        self._chunk = memoryview(chunk)
        self._write_timeout = write_timeout
        self._connected = connected
        self._input = bytearray()
        self._paused = self._ended = self._lost = False
        self._reason = "closed"
        self._readable: asyncio.Future[None] | None = None
        self._room: asyncio.Event | None = None  # while there's none
        self._closed: asyncio.Event | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=0)  # who writes waits for the system
        self.socket: socket.socket = transport.get_extra_info("socket")
        if self.socket.family in (socket.AF_INET, socket.AF_INET6):
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_KEEPIDLE"):
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE)
        self._connected(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._chunk

    def buffer_updated(self, nbytes: int) -> None:
        self._input += self._chunk[:nbytes]
        if len(self._input) >= CHUNK:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self._ended = True
        self._wake()
        return True  # what is under way to the peer still goes there

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._reason = str(exc or "closed")
        self._wake()
        self.resume_writing()
        if self._closed is not None:
            self._closed.set()

    def pause_writing(self) -> None:
        self._room = asyncio.Event()

    def resume_writing(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None

    def _wake(self) -> None:
        if self._readable is not None and not self._readable.done():
            self._readable.set_result(None)

    async def read(self) -> bytes:
        while not self._input:
            if self._ended:
                return b""
            self._check()
            self._readable = asyncio.get_running_loop().create_future()
            await self._readable
        data = bytes(self._input)
        self._input.clear()
        if self._paused and not self._lost:
            self._paused = False
            self.transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        self._check()
        self.transport.write(data)
        if self._room is None:
            return
        try:
            async with asyncio.timeout(self._write_timeout):
                await self._room.wait()
        except TimeoutError as error:
            self.transport.abort()
            waited = f"{self._write_timeout:g} s"
            raise LinkError(f"the peer has read too little for {waited}") from error
        self._check()

    def _check(self) -> None:
        if self._lost or self.transport.is_closing():  # that comes first, and the reason later
            raise LinkError(f"connection lost: {self._reason}")

    async def close(self) -> None:
        """Send what is still waiting, unless the peer takes too long, and close."""
        self.transport.close()
        if self._lost:
            return
        self._closed = asyncio.Event()
        try:
            async with asyncio.timeout(self._write_timeout):
                await self._closed.wait()
        except TimeoutError:
            self.transport.abort()
