from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from edgellm.errors import LinkError
from edgellm.wire.socket_wire import CHUNK, SocketWire


@contextlib.asynccontextmanager
async def wired(write_timeout: float = 1) -> AsyncIterator[tuple[SocketWire, socket.socket]]:
    """A wire and the socket at its other end."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    made: list[SocketWire] = []
    await asyncio.get_running_loop().create_connection(
        lambda: SocketWire(bytearray(CHUNK), write_timeout, made.append), sock=ours
    )
    try:
        yield made[0], theirs
    finally:
        made[0].transport.abort()
        theirs.close()
        await asyncio.sleep(0)


async def received(peer: socket.socket, count: int) -> bytes:
    got = b""
    async with asyncio.timeout(5):
        while len(got) < count:
            got += await asyncio.get_running_loop().sock_recv(peer, 1 << 16)
    return got


def test_both_ways() -> None:
    async def main() -> None:
        async with wired() as (wire, peer):
            await wire.write(b"out")
            assert await received(peer, 3) == b"out"
            peer.send(b"in")
            assert await wire.read() == b"in"
            peer.shutdown(socket.SHUT_WR)
            assert await wire.read() == b""
            await wire.write(b"still")
            assert await received(peer, 5) == b"still"
            await wire.close()
            assert peer.recv(1) == b""

    asyncio.run(main())


def test_what_waits_to_be_read_is_bounded_and_complete() -> None:
    async def main() -> None:
        async with wired() as (wire, peer):
            data = bytes(range(256)) * 2000
            sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(peer, data))
            got = b""
            while len(got) < len(data):
                await asyncio.sleep(0.001)
                piece = await asyncio.wait_for(wire.read(), 5)
                assert len(piece) <= 2 * CHUNK
                got += piece
            assert got == data
            await sending

    asyncio.run(main())


def test_a_reader_that_is_cancelled_loses_nothing() -> None:
    async def main() -> None:
        async with wired() as (wire, peer):
            got = b""
            for number in range(50):
                reading = asyncio.create_task(wire.read())
                await asyncio.sleep(0)
                peer.send(bytes((number,)))
                await asyncio.sleep(0)
                reading.cancel()
                await asyncio.wait([reading])
                got += b"" if reading.cancelled() else reading.result()
            while len(got) < 50:
                got += await asyncio.wait_for(wire.read(), 5)
            assert got == bytes(range(50))

    asyncio.run(main())


def test_who_writes_to_a_peer_that_reads_nothing_gives_up() -> None:
    async def main() -> None:
        async with wired(0.05) as (wire, _):
            with pytest.raises(LinkError, match=r"has read too little for 0\.05 s"):
                await wire.write(b"x" * (1 << 22))
            with pytest.raises(LinkError):
                await wire.write(b"x")

    asyncio.run(main())


def test_a_peer_that_is_gone() -> None:
    async def main() -> None:
        async with wired() as (wire, peer):
            reading = asyncio.create_task(wire.read())
            await asyncio.sleep(0)
            wire.transport.abort()
            with pytest.raises(LinkError, match="connection lost"):
                await reading
            with pytest.raises(LinkError, match="connection lost"):
                await wire.write(b"x")
            await wire.close()
            assert peer.recv(1) == b""

    asyncio.run(main())
