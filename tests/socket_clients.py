"""Clients of a socket channel, and one that serves them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Iterable

import pytest
from scripted import HOLD, ScriptedService

from edgellm.link.device import Device
from edgellm.link.events import Answered, Piece
from edgellm_plugins.socket_channel import edgellm_channel

LOCAL = "tcp://127.0.0.1:0"


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, text: str) -> None:
        self.writer.write(text.encode())

    async def line(self) -> str:
        async with asyncio.timeout(20):
            return (await self.reader.readline()).decode()

    async def rest(self) -> str:
        """All that comes until the server closes."""
        async with asyncio.timeout(20):
            return (await self.reader.read()).decode()


class Server:
    def __init__(self, url: str, service: ScriptedService, address: str) -> None:
        self.url, self.service, self.address = url, service, address
        self.clients: list[Client] = []

    async def connect(self) -> Client:
        if self.address.startswith("unix://"):
            streams = await asyncio.open_unix_connection(self.address.removeprefix("unix://"))
        else:
            host, port = re.fullmatch(r"tcp://\[?([^]]*?)\]?:(\d+)", self.address).groups()
            streams = await asyncio.open_connection(host, int(port))
        self.clients.append(Client(*streams))
        return self.clients[-1]


@contextlib.asynccontextmanager
async def serving(
    capsys: pytest.CaptureFixture[str], url: str = LOCAL, service: ScriptedService | None = None
) -> AsyncIterator[Server]:
    service = service or ScriptedService()
    channel = edgellm_channel(url)
    task = asyncio.create_task(channel.serve(service))
    told = ""
    while not task.done() and "# listening on " not in told:
        await asyncio.sleep(0)
        told += capsys.readouterr().err
    if task.done():
        await task
    server = Server(url, service, told.split()[3])
    try:
        yield server
    finally:
        for client in server.clients:
            client.writer.close()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for client in server.clients:
            with contextlib.suppress(OSError):
                await client.writer.wait_closed()


def hold(text: str) -> Iterable[object]:
    return [text, HOLD, "!"]


async def closed(service: ScriptedService) -> None:
    async with asyncio.timeout(20):
        await service.closing.wait()


SECRET = b"correct horse battery staple"


class Framed:
    """A client that talks in frames: the device's end of the link on a socket."""

    def __init__(self, client: Client, **options: object) -> None:
        self.client = client
        self.device = Device("test", **options)
        self.events: list[object] = []
        self.device.connected(time.monotonic())

    async def until(self, *kinds: type) -> object:
        """The next event of one of these kinds; None if the host closes first."""
        async with asyncio.timeout(20):
            while True:
                for event in self.events:
                    if isinstance(event, kinds):
                        self.events.remove(event)
                        return event
                if data := self.device.output(time.monotonic()):
                    self.client.writer.write(data)
                    continue
                deadline = self.device.deadline()
                patience = None if deadline is None else max(0, deadline - time.monotonic())
                try:
                    data = await asyncio.wait_for(self.client.reader.read(4096), patience)
                except TimeoutError:
                    continue
                if not data:
                    return None
                self.events += self.device.receive(data, time.monotonic())

    async def answer(self, question: str) -> str:
        self.device.ask(question)
        text = ""
        while isinstance(event := await self.until(Piece, Answered), Piece):
            text += event.text
        assert event is not None
        return text
