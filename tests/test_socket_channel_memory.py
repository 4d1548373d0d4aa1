"""What a client may cost."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest
from scripted import ScriptedAnswer, ScriptedService
from socket_clients import LOCAL, Server, serving

from edgellm.link.frames import encode
from edgellm.link.host import ROOM
from edgellm.link.lines import MAX_LINE
from edgellm.link.messages import Ask, Hello, Tools, pack
from edgellm.link.send_queue import MORE

MAX_CLIENT_BYTES = 32 * 1024
"""What a client may cost, whatever it sends."""


class Forgetful(ScriptedService):
    """Keeps nothing but the sessions."""

    def ask(self, *arguments: Any, **options: Any) -> ScriptedAnswer:
        answer = super().ask(*arguments, **options)
        for kept in (self.asked, self.options, self.priorities, self.answers):
            kept.clear()
        return answer


HELLO = encode(b"\1\0\0\0" + pack(Hello(1, b"", "test", 244, 32768, b""))[1])


def numbered(messages: Iterable[tuple[int, bytes]]) -> bytes:
    """Frames of messages, each a type and payload, from a device that acknowledges nothing."""
    cut = [
        (kind | (MORE if begin + 240 < len(payload) else 0), payload[begin : begin + 240])
        for kind, payload in messages
        for begin in range(0, len(payload), 240)
    ]
    return b"".join(
        encode(bytes((kind, seq & 255, 0, 8)) + payload) for seq, (kind, payload) in enumerate(cut)
    )


ASKS = [(Ask.TYPE, pack(Ask(number, 0, "hi", {}))[1]) for number in range(1, 200)]
UNFINISHED = [(Tools.TYPE | MORE, b"x" * 240)] * (ROOM // 240)


async def held(server: Server, count: int, hello: bytes, data: bytes) -> float:
    """Bytes by which this process grows, at the most, for each of `count` clients that send all of
    `data`, once they have been answered the hello, and read nothing more."""
    loop = asyncio.get_running_loop()
    host, port = server.address.removeprefix("tcp://").split(":")

    async def flood(client: socket.socket) -> None:
        with contextlib.suppress(OSError):  # who sends too much is cut off
            await loop.sock_sendall(client, hello)
            if hello:
                await loop.sock_recv(client, 1000)
            await loop.sock_sendall(client, data)

    def used() -> int:
        gc.collect()  # garbage isn't held, and doesn't grow with the number of clients
        return tracemalloc.get_traced_memory()[0]

    with contextlib.ExitStack() as clients:
        before, most, quiet = used(), 0, 0
        floods = []
        for _ in range(count):
            client = clients.enter_context(socket.create_connection((host, int(port))))
            client.setblocking(False)
            floods.append(asyncio.create_task(flood(client)))
        while quiet < 3:
            await asyncio.sleep(0.05)
            quiet = 0 if used() > most else quiet + 1
            most = max(most, used())
        for task in floods:
            task.cancel()
        await asyncio.wait(floods)
    return (most - before) / count


@pytest.mark.parametrize(
    ("hello", "data"),
    [
        (b"", b""),
        (b"", b"whole\n" * 5 + b"half"),
        (b"", b"x" * 2_000_000),
        (b"", b"x" * (MAX_LINE - 4) + "\U0001f600".encode()),
        (b"", b"hi\n" * 5000),
        (b"", b"\0" * 500_000),
        (b"", b"\0" + b"x" * 500_000),
        (HELLO, b""),
        (HELLO, HELLO * 5000),
        (HELLO, numbered(ASKS)),
        (HELLO, numbered(ASKS[:1])),
        (HELLO, numbered(UNFINISHED)),
        (HELLO, numbered([(Tools.TYPE | MORE, b"x")] * ROOM)),
    ],
    ids=[
        *("idle", "lines", "no line", "long line", "questions", "zeros", "noise", "device"),
        *("hellos", "asks", "answer", "long message", "long message byte by byte"),
    ],
)
def test_a_client_costs_little_memory(
    hello: bytes, data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        service = Forgetful(lambda text: ["x" * 2000])
        async with serving(capsys, f"{LOCAL}?clients=1000", service) as server:
            tracemalloc.start()
            try:
                await held(server, 1, hello, data)  # what is loaded when it's first needed
                used = await held(server, 40, hello, data)
            finally:
                tracemalloc.stop()
            assert used <= MAX_CLIENT_BYTES

    asyncio.run(main())
