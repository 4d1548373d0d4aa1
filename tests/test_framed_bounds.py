"""What a peer may cost, and peers that lie."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import tracemalloc
from collections.abc import Iterable

import msgpack
import pytest
from framed_peer import FAN, SOAK, connect, frame
from scripted import MemoryWire, ScriptedService
from virtual_time import now, run

from edgellm.channel import Call
from edgellm.delivery import PIECE, QUEUE
from edgellm.errors import (
    BusyError,
    LinkError,
)
from edgellm.framed import MAX_WAITING, Framed
from edgellm.link import frames, messages
from edgellm.link.fields import MAX_MTU
from edgellm.link.messages import (
    Accept,
    Ask,
    Chunk,
    Failed,
    Finished,
    Hello,
    New,
    Ping,
    Pong,
    Result,
    StatusQuery,
    Stop,
    Taken,
    Tools,
    Welcome,
)


def test_a_peer_that_asks_and_never_reads_is_given_up() -> None:
    async def main() -> None:
        service, wire = ScriptedService(), MemoryWire()
        framed = asyncio.create_task(Framed(wire, service, "line#1").run())
        wire.say(frame(Hello(1, b"", "device", 244, 0)))
        await wire.until(b"\0")
        wire.reading.clear()
        asked = 0
        while not framed.done():  # which no device does that obeys the window
            wire.say(frame(StatusQuery(), asked))
            asked += 1
            await asyncio.sleep(0.01)
        assert asked < MAX_WAITING / 20
        wire.reading.set()
        with pytest.raises(LinkError, match="takes none"):
            await framed
        assert service.left == ["session 1"]

    run(main())


def test_no_more_of_an_answer_is_taken_than_there_is_room_for() -> None:
    def long(text: str) -> Iterable[object]:
        return ["x" * 100] * 1000

    async def main(others: int) -> float:
        service = ScriptedService(lambda text: ["x" * 100] * (1000 if text == "long" else 10))
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(others):
                stuck = await stack.enter_async_context(connect(service))
                stuck.cable.ends[0].stuck = True
                stuck.say(Ask(1, 0, "long", {}))
            await asyncio.sleep(10 - now())
            for answer in service.answers:
                assert answer.ended
                assert answer._given * 100 < QUEUE + 4 * PIECE
            peer = await stack.enter_async_context(connect(service))
            peer.say(Ask(1, 0, "short", {}))
            await peer.answer()
            return now()

    assert run(main(others=20)) == pytest.approx(run(main(others=0)), abs=1e-6)


def test_overload_is_answered_at_once() -> None:
    def full(_: str) -> Iterable[object]:
        raise BusyError(8, 1234)

    async def main() -> None:
        async with connect(ScriptedService(full)) as peer:
            for number in range(1, 1001):
                begin = now()
                peer.say(Ask(number, 0, "hi", {}))
                failed = await peer.next(Failed)
                assert (failed.id, failed.code) == (number, "busy")
                assert (failed.place, failed.retry_ms) == (8, 1234)
                assert now() - begin < 0.05

    run(main())


def test_memory_of_a_client() -> None:
    count = 50

    async def main(question: bytes) -> float:
        service = ScriptedService(lambda _: ["x" * 100] * 100)
        tasks = []

        async def begin() -> None:
            wire = MemoryWire()
            wire.say(frame(Hello(1, b"", "device", 244, 0)))
            tasks.append(asyncio.create_task(Framed(wire, service, "line#1").run()))
            await wire.until(b"\0")
            wire.reading.clear()
            wire.say(question)
            await asyncio.sleep(0.05)

        await begin()
        gc.collect()
        tracemalloc.start()
        for _ in range(count):
            await begin()
        gc.collect()
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert len(service.asked) == (len(tasks) if question != b"\0" else 0)
        return used / count

    assert run(main(b"\0")) < 32 * 1024
    assert run(main(frame(Ask(1, 0, "hi", {})))) < 32 * 1024


# Hostile peers


class Liar:
    """Obeys the rules of frames, so that whatever it says in them is listened to."""

    def __init__(self, service: ScriptedService) -> None:
        self.wire = MemoryWire()
        self.framed = Framed(self.wire, service, "line#1")
        self.running = asyncio.create_task(self.framed.run())
        self._decoder = frames.Decoder(MAX_MTU)
        self._seq = self._ack = 0

    async def say(self, kind: int, payload: bytes) -> None:
        numbered = kind not in (Hello.TYPE, Ping.TYPE, Pong.TYPE, messages.Ack.TYPE)
        body = bytes((kind, self._seq if numbered else 0, self._ack, 8)) + payload
        self._seq = (self._seq + numbered) & 0xFF
        self.wire.say(frames.encode(body))
        await asyncio.sleep(0.002)
        sent, self.wire.sent = self.wire.sent, b""
        for kind, seq, *_ in self._decoder.receive(sent):
            if kind == Welcome.TYPE:
                self._seq = self._ack = 0
            elif kind not in (Ping.TYPE, Pong.TYPE, messages.Ack.TYPE) and seq == self._ack:
                self._ack = (self._ack + 1) & 0xFF


def lies(noise: random.Random) -> Iterable[tuple[int, bytes]]:
    """Messages of all types, most of them spoiled."""
    value = noise.choice([0, -1, 1.5, 2**63, "x" * 300, b"x", None, [[]], {"a": {"b": []}}, True])
    number = noise.randrange(1, 9)
    true = [
        Hello(noise.randrange(4), noise.choice([b"", bytes(7) + b"\1"]), "device", 244, 32768),
        Ask(number, noise.choice([0, 1, 9999]), noise.choice(["hi", None, "grüß"]), {}),
        Ask(number, 0, "hi", {"schema": {"type": "object"}, "deadline": 5, "max_tokens": 3}),
        Taken(number),
        Stop(number),
        New(),
        StatusQuery(),
        Ping(),
        Result(number, noise.choice(["ok", "error"]), [1, {"a": None}]),
        Tools([FAN, ["pump", "", {"type": "object", "properties": {"s": {"type": "number"}}}, 2]]),
        Accept(1, 0),
        Chunk(0, "x"),
        Finished(1, 0, "stop", 1, 1, 0),
        messages.Call(number, "fan", {}, 1000),
    ]
    noise.shuffle(true)
    for message in true:
        kind, payload = messages.pack(message)
        spoiled = bytearray(payload)
        match noise.randrange(5):
            case 0 if spoiled:
                spoiled[noise.randrange(len(spoiled))] = noise.randrange(256)
            case 1:
                del spoiled[noise.randrange(len(spoiled) + 1) :]
            case 2:
                fields = msgpack.unpackb(payload or b"\x90", strict_map_key=False)
                if fields:
                    fields[noise.randrange(len(fields))] = value
                spoiled = bytearray(msgpack.packb(fields))
            case 3:
                kind = noise.randrange(256)
        yield kind, bytes(spoiled)


def test_lies_do_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    rounds = 20_000 if SOAK else 400
    noise = random.Random(3)

    async def main() -> None:
        service = ScriptedService(lambda text: [text, Call(1, "fan", {}, 5.0), "done"])
        liar = Liar(service)
        for _ in range(rounds):
            for kind, payload in lies(noise):
                await liar.say(kind, payload)
                if liar.running.done():
                    with pytest.raises(LinkError):
                        await liar.running
                    liar = Liar(service)
        liar.running.cancel()
        async with connect(service) as peer:
            peer.say(Ask(1, 0, "hi", {}))
            await peer.next(messages.Call)
            peer.say(Result(1, "ok", None))
            await peer.next(Finished)
        assert len(service.asked) > rounds / 20
        assert service.tools

    with caplog.at_level(logging.ERROR):
        run(main())
    assert caplog.text == ""
