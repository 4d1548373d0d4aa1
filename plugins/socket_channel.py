"""TCP and Unix sockets that speak line mode.

    tcp://127.0.0.1:7070        tcp://[::1]:7070        unix:///run/edgellm.sock

Port 0 lets the system choose; what was chosen is told on standard error. Options, after a "?":

    clients=256         how many may be connected at once; a further one gets `! busy`
    idle=3600           seconds without a line after which a client is let go; 0: never
    write_timeout=30    seconds that a client may take too little of what is sent to it
    priority=person     or device, batch: whose questions go before whose
    allow=any           tcp: listen on addresses that other machines reach, too

There is no authentication yet, hence only loopback addresses are listened on unless told otherwise,
and a Unix socket belongs to its owner alone (mode 0600). A line that is too long costs an error
line, not the connection: the next line ending is a safe place to go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import logging
import os
import socket
import stat
import sys
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from edgellm import hookimpl
from edgellm.channel import Channel, Service, number, priority, query
from edgellm.connection import Connection
from edgellm.errors import BusyError, LinkError, UsageError
from edgellm.link.lines import Lines

log = logging.getLogger(__name__)

CHUNK = 4096
"""Bytes read at once; at most three times as many wait to be read, and as many to be written."""
RETRY_MS = 5000
KEEPALIVE = 60
"""Seconds of silence after which the system asks whether a TCP peer still lives."""


@hookimpl
def edgellm_channel(url: str) -> Channel | None:
    return SocketChannel(url) if url.startswith(("tcp:", "unix:")) else None


class StreamWire:
    """A connected socket; see `edgellm.connection.Wire`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, write_timeout: float
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._write_timeout = write_timeout
        writer.transport.set_write_buffer_limits(high=CHUNK, low=CHUNK // 4)
        connected = writer.get_extra_info("socket")
        if connected.family in (socket.AF_INET, socket.AF_INET6):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_KEEPIDLE"):
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE)

    async def read(self) -> bytes:
        try:
            return await self._reader.read(CHUNK)
        except OSError as error:
            raise LinkError(f"connection lost: {error}") from error

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        try:
            async with asyncio.timeout(self._write_timeout):
                await self._writer.drain()
        except TimeoutError as error:  # an OSError, too
            self._writer.transport.abort()
            raise LinkError(
                f"the peer has read too little for {self._write_timeout:g} s"
            ) from error
        except OSError as error:
            raise LinkError(f"connection lost: {error}") from error

    async def close(self) -> None:
        """Send what is still waiting, unless the peer takes too long, and close."""
        self._writer.close()
        try:
            async with asyncio.timeout(self._write_timeout):
                await self._writer.wait_closed()
        except OSError:  # lost, or timed out
            self._writer.transport.abort()


class SocketChannel:
    """Serves each client by a Connection of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        known = {"clients": "256", "idle": "3600", "write_timeout": "30", "priority": "person"}
        self._address: tuple[str, int] | None = None
        self._path = ""
        if url.startswith("tcp:"):
            options = query(url, known | {"allow": "loopback"})
            self._address = _address(url, options["allow"])
        else:
            options = query(url, known)
            self._path = unquote(url.partition("?")[0].removeprefix("unix:").removeprefix("//"))
            if not self._path or "\0" in self._path:
                raise UsageError(f"{url}: no path; write unix:///path/to/socket")
        self._clients = int(number(url, "clients", options["clients"], 1, 10000))
        self._idle = number(url, "idle", options["idle"], 0, 1e9)
        self._timeout = number(url, "write_timeout", options["write_timeout"], 0.01, 1e6)
        self._priority = priority(url, options["priority"])
        self._names = itertools.count(1)
        self._connected = 0

    async def serve(self, service: Service) -> None:
        """Listen until cancelled. Raises UsageError if the address can't be used."""
        bound = _tcp(self.url, *self._address) if self._address else _unix(self.url, self._path)
        with bound as listener:
            async with asyncio.TaskGroup() as talks:

                def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                    talks.create_task(self._talk(reader, writer, service))

                server = await asyncio.start_server(welcome, sock=listener, limit=CHUNK)
                print(f"# listening on {_shown(listener)}", file=sys.stderr, flush=True)
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    server.close()

    async def _talk(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, service: Service
    ) -> None:
        wire = StreamWire(reader, writer, self._timeout)
        name = f"{self.url}#{next(self._names)}"
        try:
            if self._connected >= self._clients:
                await self._turn_away(wire, writer)
            else:
                self._connected += 1
                try:
                    await Connection(wire, service, name, self._idle, self._priority).run()
                finally:
                    self._connected -= 1
            await wire.close()
        except LinkError as error:
            log.info("%s: %s", name, error)
        except Exception:  # a bug met by one client must not end the others
            log.exception("%s failed", name)
        finally:
            writer.transport.abort()

    async def _turn_away(self, wire: StreamWire, writer: asyncio.StreamWriter) -> None:
        await wire.write(Lines().error(BusyError(self._clients, RETRY_MS)))
        writer.write_eof()
        # Closing before the peer's own bytes are read would make its system drop ours.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while await wire.read():
                    pass


def _address(url: str, allow: str) -> tuple[str, int]:
    """Host and port of a tcp URL; raises UsageError for what may not be listened on."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise UsageError(f"{url}: {error}") from error
    if not host or port is None:
        raise UsageError(f"{url}: no host or no port; write tcp://127.0.0.1:7070")
    if allow not in ("loopback", "any"):
        raise UsageError(f"{url}: allow is {allow!r}; known are loopback, any")
    if host == "localhost":  # also where it has an IPv6 address, but the system no IPv6
        host = "127.0.0.1"
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may lead anywhere
        local = False
    if not local and allow != "any":
        raise UsageError(
            f"{url}: other machines could reach {host}, and nobody is asked for a password; "
            "listen on 127.0.0.1, or add ?allow=any if the network is trusted"
        )
    return host, port


def _tcp(url: str, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(f"{url}: {error.strerror}") from error
    except ValueError as error:  # a UnicodeError: no name can be spelled like that
        raise UsageError(f"{url}: {host!r} can't be a host's name; {error}") from error


@contextlib.contextmanager
def _unix(url: str, path: str) -> Iterator[socket.socket]:
    """A Unix socket for the owner alone, gone again at the end.

    A socket left there by a server that died is replaced, anything else is left alone.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise UsageError(
            f"{url}: this system's Python has no Unix sockets; use tcp://127.0.0.1:7070"
        )
    _clear(url, path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            listener.bind(path)
            os.chmod(path, 0o600)  # before it listens, hence before anybody can connect
            ours = os.stat(path).st_ino
        except OSError as error:
            raise UsageError(f"{url}: {error.strerror or error}") from error
        try:
            yield listener
        finally:
            with contextlib.suppress(OSError):  # somebody else has taken it away
                if os.stat(path).st_ino == ours:
                    os.unlink(path)


def _clear(url: str, path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise UsageError(f"{url}: there is a file that isn't a socket; choose another path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a server whose backlog is full lives as well
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                raise UsageError(f"{url}: {error.strerror or error}") from error
    raise UsageError(f"{url}: another server listens there; stop it or choose another path")


def _shown(listener: socket.socket) -> str:
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return f"unix://{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
