"""A device opposite a Framed, of which a test says every message."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import TypeVar

from line_simulator import CLEAN, Conditions, Line
from scripted import ScriptedService
from virtual_time import Cable, now

from edgellm.errors import (
    LinkError,
)
from edgellm.framed import Framed
from edgellm.link import frames, messages
from edgellm.link.messages import (
    Accept,
    Chunk,
    Finished,
    Hello,
    Message,
    Welcome,
)
from edgellm.link.reliable import Reliable

SOAK = "EDGELLM_SOAK" in os.environ
SECRET = b"correct horse battery staple"
FAN = ["fan", "turn the fan", {"type": "object", "properties": {}}, 0]
M = TypeVar("M", bound=Message)


def frame(message: Message, seq: int = 0) -> bytes:
    kind, payload = messages.pack(message)
    return frames.encode(bytes((kind, seq & 0xFF, 0, 8)) + payload)


class Peer:
    """A device of which a test says every message, on a cable to a Framed."""

    def __init__(
        self,
        service: ScriptedService,
        conditions: Conditions = CLEAN,
        mtu: int = 244,
        room: int = 32768,
        **options: object,
    ) -> None:
        self.link = Reliable(mtu=mtu, room=room)
        self.heard: list[Message] = []
        self.cable = Cable(Line(conditions, 1))
        self.framed = Framed(self.cable.ends[0], service, "line#1", **options)
        self.running = asyncio.create_task(self.framed.run())
        self.welcome: Welcome | None = None
        self._wire = self.cable.ends[1]
        self._news = asyncio.Event()
        self._wake = asyncio.Event()
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]

    async def _read(self) -> None:
        with contextlib.suppress(LinkError):
            while True:
                data = await self._wire.read()
                for message in self.link.receive(data, now()):
                    if isinstance(message, Welcome):
                        self.link.reset(message.mtu, message.room)
                    self.heard.append(message)
                self._news.set()
                self._wake.set()

    async def _write(self) -> None:
        with contextlib.suppress(LinkError):
            while True:
                if data := self.link.output(now()):
                    await self._wire.write(data)
                    continue
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(self.link.deadline()):
                        await self._wake.wait()

    def say(self, *said: Message) -> None:
        for message in said:
            self.link.send(message)
        self._wake.set()

    async def next(self, kind: type[M]) -> M:
        """The first message of that kind, which is taken out with all before it."""
        async with asyncio.timeout(30):
            while True:
                while self.heard:
                    message = self.heard.pop(0)
                    if isinstance(message, kind):
                        return message
                self._news.clear()
                await self._news.wait()

    async def hello(self, token: bytes = b"", nonce: int = 1) -> Welcome:
        self.say(Hello(nonce, token, "device", self.link.mtu, self.link.room))
        return await self.next(Welcome)

    async def answer(self) -> tuple[str, Finished]:
        """The text from Accept to Finished."""
        accepted = await self.next(Accept)
        text, offset = "", accepted.offset
        while True:
            message = await self.next(Chunk | Finished)  # type: ignore[arg-type]
            if isinstance(message, Finished):
                assert message.total == offset
                return text, message
            assert message.offset == offset
            text += message.text
            offset += len(message.text.encode())

    async def end(self) -> None:
        self.cable.cut()
        for task in (self.running, *self._tasks):
            task.cancel()
        await asyncio.gather(self.running, *self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def connect(
    service: ScriptedService | None = None, hello: bool = True, **options: object
) -> AsyncIterator[Peer]:
    peer = Peer(service or ScriptedService(), **options)
    try:
        if hello:
            peer.welcome = await peer.hello()
        yield peer
    finally:
        await peer.end()
