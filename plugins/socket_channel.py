"""TCP and Unix sockets: the device link, by frames or by lines of text, for any number of clients.

    tcp://127.0.0.1:7070        tcp://[::1]:7070        unix:///run/edgellm.sock

Port 0 lets the system choose; what was chosen is told on standard error. Options, after a "?":

    clients=256         how many may be connected at once; a further one gets `! busy`
    idle=3600           seconds without a line or a frame after which a client is let go; 0: never
    write_timeout=30    seconds that a client may take too little of what is sent to it
    priority=person     or device, batch: whose questions go before whose
    adapter=NAME        of questions that choose none; see edgellm.adapter_choice
    token=FILE          the secret that a client must know; the file is its owner's alone (mode
                        0600). For tcp, the variable EDGELLM_TOKEN does the same
    handshake=5         with a token, seconds that a client has for proving that it knows it; people
                        at a terminal say `/auth` and the secret
    backoff=60          the most seconds for which an address that has said wrong tokens is turned
                        away: 1, 2, 4, … after the first three; 0: it isn't
    allow=any           tcp: listen on addresses that other machines reach, though without a token
    users=anna,1001     unix: whom the socket serves besides its owner and root

Without a token only loopback addresses are listened on unless told otherwise. The token shows who
may ask; it hides nothing: whoever can read the network reads what is said. A Unix socket belongs to
its owner alone (mode 0600), or with `users` it is open to all and the system tells who has come.
A line or a frame that is too long costs an error, not the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import logging
import math
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edgellm import hookimpl
from edgellm.channel import Channel, Service, number, priority, query
from edgellm.connection import Connection
from edgellm.errors import BusyError, LinkError, UsageError
from edgellm.link.lines import Lines
from edgellm.wire import secret
from edgellm.wire.back_off import BackOff
from edgellm.wire.socket_wire import CHUNK, SocketWire

log = logging.getLogger(__name__)

RETRY_MS = 5000
FAREWELLS = 64
"""Clients turned away that may take their time to read why; more are cut off."""
KNOWN = {
    "clients": "256",
    "idle": "3600",
    "write_timeout": "30",
    "priority": "person",
    "adapter": "",
    "token": "",
    "handshake": "5",
    "backoff": "60",
}


@hookimpl
def edgellm_channel(url: str) -> Channel | None:
    return SocketChannel(url) if url.startswith(("tcp:", "unix:")) else None


class SocketChannel:
    """Serves each client by a Connection of its own."""

    def __init__(self, url: str) -> None:
        """Raises UsageError for an option that can't be, or an address that isn't safe."""
        self.url = url
        self._address: tuple[str, int] | None = None
        self._path = ""
        self._users: frozenset[int] | None = None
        if url.startswith("tcp:"):
            options = query(url, KNOWN | {"allow": "loopback"})
            self._secret = _secret(options["token"]) or secret.from_environment()
            self._address = _address(url, options["allow"], self._secret is not None)
        else:
            options = query(url, KNOWN | {"users": ""})
            self._secret = _secret(options["token"])
            self._path = unquote(url.partition("?")[0].removeprefix("unix:").removeprefix("//"))
            if not self._path or "\0" in self._path:
                raise UsageError(f"{url}: no path; write unix:///path/to/socket")
            if options["users"]:
                self._users = _uids(url, options["users"])
        self._clients = int(number(url, "clients", options["clients"], 1, 10000))
        self._idle = number(url, "idle", options["idle"], 0, 1e9)
        self._timeout = number(url, "write_timeout", options["write_timeout"], 0.01, 1e6)
        self._handshake = number(url, "handshake", options["handshake"], 0.01, 1e6)
        self._back_off = BackOff(number(url, "backoff", options["backoff"], 0, 1e6))
        self._priority = priority(url, options["priority"])
        self._adapter = options["adapter"] or None
        self._names = itertools.count(1)
        self._connected = 0
        self._leaving = 0

    async def serve(self, service: Service) -> None:
        """Listen until cancelled. Raises UsageError if the address can't be used."""
        bound: contextlib.AbstractContextManager[socket.socket]
        if self._address:
            bound = _tcp(self.url, *self._address)
        else:
            bound = _unix(self.url, self._path, 0o600 if self._users is None else 0o666)
        chunk = bytearray(CHUNK)
        with bound as listener:
            async with asyncio.TaskGroup() as talks:

                def welcome(wire: SocketWire) -> None:
                    talks.create_task(self._talk(wire, service))

                server = await asyncio.get_running_loop().create_server(
                    lambda: SocketWire(chunk, self._timeout, welcome), sock=listener
                )
                print(f"# listening on {_shown(listener)}", file=sys.stderr, flush=True)
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    server.close()

    async def _talk(self, wire: SocketWire, service: Service) -> None:
        name = f"{self.url}#{next(self._names)}"
        try:
            refusal = self._refusal(wire)
            if refusal:
                await self._turn_away(wire, refusal)
            else:
                await self._serve(wire, service, name)
            await wire.close()
        except LinkError as error:
            log.info("%s: %s", name, error)
        except Exception:  # a bug met by one client must not end the others
            log.exception("%s failed", name)
        finally:
            wire.transport.abort()

    async def _serve(self, wire: SocketWire, service: Service, name: str) -> None:
        self._connected += 1
        connection = Connection(
            wire,
            service,
            name,
            self._idle,
            self._priority,
            secret=self._secret,
            handshake=self._handshake if self._secret else 0,
            adapter=self._adapter,
        )
        try:
            await connection.run()
        finally:
            self._connected -= 1
            if connection.refused:
                now = asyncio.get_running_loop().time()
                self._back_off.wrong(_origin(wire.socket), connection.refused, now)

    def _refusal(self, wire: SocketWire) -> str | BusyError:
        """Why a client isn't served; "" if it is."""
        if not self._address and (stranger := self._stranger(wire.socket)):
            return stranger
        if self._secret is not None:
            now = asyncio.get_running_loop().time()
            if wait := self._back_off.wait(_origin(wire.socket), now):
                return f"auth: too many wrong tokens; come again in {math.ceil(wait)} s"
        if self._connected >= self._clients:
            return BusyError(self._clients, RETRY_MS)
        return ""

    def _stranger(self, connected: socket.socket) -> str:
        """What a user is told whom a Unix socket isn't for; "" for those whom it's for."""
        uid = _user(connected)
        if uid in (None, os.geteuid(), 0, *(self._users or ())):
            return ""
        return f"auth: this socket isn't for the user {uid}; serve it with users={uid}"

    async def _turn_away(self, wire: SocketWire, refusal: str | BusyError) -> None:
        await wire.write(Lines().error(refusal))
        if self._leaving >= FAREWELLS:
            return
        self._leaving += 1
        try:
            wire.transport.write_eof()
            # Closing before the peer's own bytes are read would make its system drop ours.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    while await wire.read():
                        pass
        finally:
            self._leaving -= 1


def _secret(path: str) -> bytes | None:
    return secret.read(Path(path)) if path else None


def _uids(url: str, names: str) -> frozenset[int]:
    """The users that `users` names, by name or number."""
    if not hasattr(socket, "SO_PEERCRED"):
        raise UsageError(f"{url}: this system doesn't tell who connects; leave out users")
    import pwd

    found = set()
    for name in names.split(","):
        try:
            found.add(int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid)
        except KeyError:
            raise UsageError(f"{url}: there is no user {name!r}") from None
    return frozenset(found)


def _user(connected: socket.socket) -> int | None:
    """Who is at the other end of a Unix socket; None where the system doesn't tell, and the file's
    mode sees to it that it's the owner."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack(
        "3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    return int(uid)


def _origin(connected: socket.socket) -> str:
    """Whose wrong tokens count together; in IPv6, a network of 2^64 addresses is one household."""
    if connected.family == socket.AF_UNIX:
        return f"user {_user(connected)}"
    try:
        host = str(connected.getpeername()[0]).partition("%")[0]
    except OSError:  # gone already
        return "gone"
    address = ipaddress.ip_address(host)
    if address.version == 6 and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return host


def _address(url: str, allow: str, guarded: bool) -> tuple[str, int]:
    """Host and port of a tcp URL; raises UsageError for what may not be listened on."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise UsageError(f"{url}: {error}") from error
    if not host or port is None or parts.path:
        raise UsageError(f"{url}: a host and a port are needed; write tcp://127.0.0.1:7070")
    if allow not in ("loopback", "any"):
        raise UsageError(f"{url}: allow is {allow!r}; known are loopback, any")
    if host == "localhost":  # also where it has an IPv6 address, but the system no IPv6
        host = "127.0.0.1"
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may lead anywhere
        local = False
    if not local and not guarded and allow != "any":
        raise UsageError(
            f"{url}: other machines could reach {host}, and nobody is asked for a token; listen on "
            "127.0.0.1, give a secret (?token=FILE), or add ?allow=any if the network is trusted"
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
def _unix(url: str, path: str, mode: int) -> Iterator[socket.socket]:
    """A Unix socket of that mode, gone again at the end.

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
            os.chmod(path, mode)  # before it listens, hence before anybody can connect
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
