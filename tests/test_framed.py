from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TypeVar

import msgpack
import pytest
from line_simulator import BAD, CLEAN, Conditions, Line
from scripted import HOLD, MemoryWire, Script, ScriptedAnswer, ScriptedService, echo
from toy_executor import ToyExecutor, ToyTokenizer
from virtual_time import Cable, Plug, now, run

from edgellm.channel import Call, Done, Text
from edgellm.delivery import INTERNAL, PIECE, QUEUE
from edgellm.errors import (
    BackendError,
    BusyError,
    ContextError,
    EdgeError,
    ExpiredError,
    LinkError,
    StaleError,
    UsageError,
)
from edgellm.framed import MAX_WAITING, MAX_WRONG, UNSAVED, Framed
from edgellm.link import frames, messages
from edgellm.link.device import Device
from edgellm.link.events import Answered, Piece, Refused
from edgellm.link.fields import MAX_MTU
from edgellm.link.host import sign
from edgellm.link.messages import (
    Accept,
    Ask,
    Challenge,
    Chunk,
    Failed,
    Finished,
    Hello,
    Message,
    New,
    Note,
    Ping,
    Pong,
    Result,
    StatusQuery,
    StatusReport,
    Stop,
    Taken,
    Tools,
    Welcome,
)
from edgellm.link.reliable import Reliable
from edgellm.sampling import Sampling
from edgellm.scheduler import Scheduler
from edgellm.service import Conversations
from edgellm.session import Message as ChatMessage

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


def test_a_question_and_its_answer() -> None:
    async def main() -> None:
        service = ScriptedService()
        async with connect(service) as peer:
            peer.say(Ask(1, 0, "grüß dich 🙂", {}))
            text, done = await peer.answer()
            data = text.encode()
            assert text == "grüß dich 🙂"
            assert (done.id, done.total, done.reason) == (1, len(data), "stop")
            assert (done.tokens, done.ms, done.crc32) == (11, 500, zlib.crc32(data))
            peer.say(Taken(1), Ask(2, 0, "more", {}))
            assert (await peer.answer())[0] == "more"
            assert service.taking == [("session 1", 1)]
            assert service.asked == [("session 1", "grüß dich 🙂"), ("session 1", "more")]

    run(main())


def test_options_of_a_question() -> None:
    async def main() -> None:
        service = ScriptedService()
        async with connect(service) as peer:
            schema = {"type": "object"}
            options = {"deadline": 2.5, "max_tokens": 9, "schema": schema, "adapter": "terse"}
            peer.say(Ask(1, 0, "hi", options))
            await peer.answer()
            options["deadline_s"] = options.pop("deadline")
            assert service.options == [options]
            wrong = [{"deadline": 0}, {"deadline": True}, {"max_tokens": 0}, {"max_tokens": 1.5}]
            wrong += [{"schema": []}, {"schema": "x"}, {"adapter": 1}, {"tempo": 1}]
            for number, options in enumerate(wrong, 2):
                peer.say(Ask(number, 0, "hi", options))
                failed = await peer.next(Failed)
                assert (failed.id, failed.code) == (number, "bad")
            assert len(service.asked) == 1

    run(main())


ERRORS = {
    "busy": BusyError(3, 2000),
    "toolong": ContextError("too long"),
    "old": StaleError("long gone"),
    "deadline": ExpiredError("too late"),
    "bad": UsageError("no schema"),
    "internal": BackendError("out of memory"),
}


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(("code", "error"), ERRORS.items(), ids=ERRORS.keys())
def test_errors(code: str, error: EdgeError, begun: bool) -> None:
    def script(_: str) -> Iterable[object]:
        if begun:
            return ["so ", error]
        raise error

    async def main() -> None:
        async with connect(ScriptedService(script)) as peer:
            peer.say(Ask(1, 0, "hi", {}))
            failed = await peer.next(Failed)
            assert (failed.id, failed.code, failed.text) == (1, code, str(error))
            if code == "busy":
                assert (failed.place, failed.retry_ms) == (3, 2000)

    run(main())


def test_unknown_numbers() -> None:
    async def main() -> None:
        async with connect() as peer:
            peer.say(Ask(1, 0, None, {}))
            assert (await peer.next(Failed)).code == "unknown"
            peer.say(Taken(5), Stop(6), Result(7, "ok", 1))
            peer.say(Ask(1, 0, "hi", {}))
            assert (await peer.answer())[0] == "hi"

    run(main())


def test_unexpected_errors_are_logged_and_told_without_details(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = ZeroDivisionError("secret")

    def raises(_: str) -> Iterable[object]:
        raise secret

    async def broken(_: ScriptedAnswer, offset: int) -> AsyncIterator[Text]:
        yield Text("so ")
        raise secret

    async def main(script: Script) -> None:
        async with connect(ScriptedService(script)) as peer:
            peer.say(Ask(1, 0, "hi", {}))
            assert await peer.next(Failed) == Failed(1, "internal", INTERNAL)

    with caplog.at_level(logging.ERROR):
        run(main(raises))
    assert "secret" in caplog.text
    caplog.clear()
    monkeypatch.setattr(ScriptedAnswer, "listen", broken)
    with caplog.at_level(logging.ERROR):
        run(main(echo))
    assert "secret" in caplog.text


def test_the_question_is_on_disk_before_it_is_accepted() -> None:
    async def main() -> None:
        service = ScriptedService()
        service.saving.clear()
        async with connect(service) as peer:
            peer.say(Ask(1, 0, "hi", {}))
            await asyncio.sleep(5)
            assert peer.heard == []
            service.saving.set()
            assert (await peer.answer())[0] == "hi"

    run(main())


def test_a_note_tells_once_that_history_is_not_saved() -> None:
    async def main() -> None:
        service = ScriptedService()
        service.keeps = False
        async with connect(service) as peer:
            for number in (1, 2):
                peer.say(Ask(number, 0, "hi", {}))
                await asyncio.sleep(1)
            kinds = [type(one) for one in peer.heard if not isinstance(one, Chunk)]
            assert kinds == [Note, Accept, Finished, Accept, Finished]
            assert peer.heard[0] == Note(UNSAVED)

    run(main())


def test_the_end_fits_the_smallest_device(monkeypatch: pytest.MonkeyPatch) -> None:
    long = Done("deadline", 2**20, 1, 0, 0.0, 1e6)
    monkeypatch.setattr(ScriptedAnswer, "_done", lambda self, reason: long)

    async def main() -> None:
        service = ScriptedService(lambda _: ["x" * 70_000])
        async with connect(service, mtu=36, room=0) as peer:
            number = 2**32 - 1
            peer.say(Ask(number, 69_990, "hi", {}))
            done = await peer.next(Finished)
            assert (done.id, done.total, done.reason) == (number, 70_000, "deadline")
            assert done.crc32 == zlib.crc32(b"x" * 70_000)

    run(main())


def test_stop() -> None:
    async def main() -> None:
        async with connect(ScriptedService(lambda text: [text, HOLD, "!"])) as peer:
            peer.say(Ask(1, 0, "hi", {}))
            await peer.next(Chunk)
            peer.say(Stop(2))  # another one
            peer.say(Ping())
            await peer.next(Pong)
            peer.say(Stop(1))
            done = await peer.next(Finished)
            assert (done.id, done.total, done.reason) == (1, 2, "cancel")
            assert done.crc32 == zlib.crc32(b"hi")
            peer.say(Stop(1))
            peer.say(StatusQuery())
            await peer.next(StatusReport)

    run(main())


def test_an_answer_is_not_stopped_before_what_the_device_has() -> None:
    async def main() -> None:
        service = ScriptedService(lambda _: ["so", HOLD, " far", " and on", " and on"])
        async with connect(service) as peer:
            peer.say(Ask(1, 5, "hi", {}), Stop(1))
            await asyncio.sleep(5)
            assert [type(one) for one in peer.heard] == [Accept]
            service.release.set()
            assert await peer.next(Chunk) == Chunk(5, "r")
            done = await peer.next(Finished)
            assert (done.total, done.reason) == (6, "cancel")

    run(main())


def test_new_forgets_the_conversation_and_stops_the_answer() -> None:
    async def main() -> None:
        service = ScriptedService(lambda text: [text, HOLD])
        async with connect(service) as peer:
            peer.say(Ask(1, 0, "hi", {}), New(), Ask(2, 0, "ho", {}))
            assert (await peer.next(Finished)).reason == "cancel"
            assert (await peer.next(Accept)).id == 2
            assert service.forgotten == ["session 1"]

    run(main())


def test_status_in_as_much_room_as_there_is() -> None:
    async def main(mtu: int, room: int) -> object:
        async with connect(mtu=mtu, room=room) as peer:
            peer.say(StatusQuery())
            return (await peer.next(StatusReport)).status

    assert run(main(244, 32768)) == {"model": "scripted", "sessions": 1}
    assert run(main(36, 0)) == {"model": "scripted", "sessions": 1}


def test_a_large_status_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    status = {f"item {number}": object() for number in range(10)}
    monkeypatch.setattr(ScriptedService, "status", lambda _: status)

    async def main() -> None:
        async with connect(mtu=100, room=0) as peer:
            peer.say(StatusQuery())
            assert list((await peer.next(StatusReport)).status) == ["item 0", "item 1"]

    run(main())


def test_messages_of_hosts_are_refused_and_complained_about_once_a_second() -> None:
    async def main() -> None:
        async with connect() as peer:
            begin = now()
            while now() < begin + 3.5:
                peer.say(Accept(1, 0), Note("x"))
                await asyncio.sleep(0.05)
            failed = [one for one in peer.heard if isinstance(one, Failed)]
            assert [one.code for one in failed] == ["bad"] * 4
            assert "is for devices" in failed[0].text
            peer.say(Ask(1, 0, "hi", {}))
            assert (await peer.answer())[0] == "hi"

    run(main())


def test_a_new_question_goes_on_where_the_device_has_given_up_the_old_answer() -> None:
    async def main() -> None:
        service = ScriptedService(lambda text: [text * 9999] if text == "long" else [text])
        async with connect(service) as peer:
            peer.say(Ask(1, 0, "long", {}))
            await peer.next(Chunk)
            peer.say(Ask(2, 0, "short", {}))
            while (await peer.next(Accept)).id != 2:
                pass
            assert (await peer.next(Chunk)) == Chunk(0, "short")
            assert (await peer.next(Finished)).id == 2

    run(main())


# Tools


def test_calls_and_results() -> None:
    call = Call(1, "fan", {"speed": 3}, 30.0)

    async def main() -> None:
        service = ScriptedService(lambda _: ["so ", call, "done"])
        async with connect(service) as peer:
            peer.say(Tools([FAN]), Ask(1, 0, "hi", {}))
            called = await peer.next(messages.Call)
            assert called == messages.Call(1, "fan", {"speed": 3}, 30_000)
            peer.say(Result(1, "ok", [1, "two", None]))
            await peer.next(Finished)
            assert service.answers[0].results == {1: (True, [1, "two", None])}
            assert [tool.name for tool in service.tools["session 1"]] == ["fan"]

    run(main())


def test_a_device_is_heard_in_order_and_others_while_its_tools_are_compiled() -> None:
    async def main() -> None:
        service = ScriptedService(lambda _: ["done"])
        async with connect(service) as peer, connect(service) as other:
            service.prepared.clear()
            peer.say(Tools([FAN]), Ask(1, 0, "hi", {}))
            await service.preparing.wait()
            other.say(StatusQuery())
            await other.next(StatusReport)
            assert not service.tools
            assert not service.asked
            service.prepared.set()
            await peer.next(Finished)
            assert list(service.tools) == ["session 1"]

    run(main())


def test_a_call_is_told_again_on_the_next_line() -> None:
    async def main() -> None:
        service = ScriptedService(lambda _: ["so ", Call(1, "fan", {}, 30.0), "done"])
        async with connect(service) as peer:
            peer.say(Ask(1, 0, "hi", {}))
            first = await peer.next(messages.Call)
        async with connect(service, hello=False) as peer2:
            assert peer.welcome is not None
            assert (await peer2.hello(peer.welcome.token)).resumed
            peer2.say(Ask(1, 3, None, {}))
            assert await peer2.next(messages.Call) == first
            peer2.say(Result(1, "error", "jammed"))
            assert await peer2.next(Chunk) == Chunk(3, "done")
            assert service.answers[0].results == {1: (False, "jammed")}

    run(main())


def test_a_call_that_the_device_has_no_room_for_is_answered_for_it() -> None:
    async def main() -> None:
        service = ScriptedService(lambda _: [Call(1, "fan", {"speed": "x" * 100}, 1.0), "done"])
        async with connect(service, mtu=68, room=0) as peer:
            peer.say(Ask(1, 0, "hi", {}))
            await peer.next(Finished)
            ok, value = service.answers[0].results[1]
            assert not ok
            assert "room for 64 bytes" in str(value)

    run(main())


def test_a_call_that_no_message_can_carry_is_answered_for_the_device() -> None:
    async def main() -> None:
        service = ScriptedService(lambda _: [Call(1, "fan", {"speed": 10**30}, 1.0), "done"])
        async with connect(service) as peer:
            peer.say(Ask(1, 0, "hi", {}))
            await peer.next(Finished)
            ok, value = service.answers[0].results[1]
            assert not ok
            assert "64 bits" in str(value)

    run(main())


@pytest.mark.parametrize("tools", [[1], [["fan"]], [FAN, ["no name!", "", {}, 0]]])
def test_tools_are_refused_as_a_whole(tools: list[object]) -> None:
    async def main() -> None:
        service = ScriptedService()
        async with connect(service) as peer:
            peer.say(Tools(tools))
            failed = await peer.next(Failed)
            assert (failed.id, failed.code) == (0, "tools")
            assert service.tools == {}

    run(main())


# Lines come and go


def test_leaving_and_resuming() -> None:
    async def main() -> None:
        service = ScriptedService(lambda text: ["so ", HOLD, "grüß ", "dich"])
        async with connect(service) as peer:
            peer.say(Ask(1, 0, "hi", {}))
            assert await peer.next(Chunk) == Chunk(0, "so ")
            peer.cable.cut()
            with pytest.raises(LinkError, match="unplugged"):
                await peer.running
        assert service.left == ["session 1"]
        assert service.closed == []
        service.release.set()
        assert peer.welcome is not None
        async with connect(service, hello=False) as peer2:
            welcome = await peer2.hello(peer.welcome.token)
            assert (welcome.token, welcome.resumed) == (peer.welcome.token, True)
            peer2.say(Ask(1, 3, "hi", {}))
            text, done = await peer2.answer()
            assert text == "grüß dich"
            assert done.crc32 == zlib.crc32("so grüß dich".encode())
            peer2.say(Ask(1, 0, None, {}))
            assert (await peer2.answer())[0] == "so grüß dich"
        assert len(service.answers) == 1
        assert service.left == ["session 1"] * 2

    run(main())


def test_a_hello_said_twice_at_once_is_one() -> None:
    async def main() -> None:
        service, wire = ScriptedService(), MemoryWire()
        wire.say(frame(Hello(1, b"", "device", 244, 0)) * 2)
        wire.hang_up()
        await Framed(wire, service, "line#1").run()
        assert len(service.entered) == 1

    run(main())


def test_an_unknown_token_gets_a_new_session() -> None:
    async def main() -> None:
        async with connect(hello=False) as peer:
            welcome = await peer.hello(b"12345678")
            assert not welcome.resumed
            assert welcome.token != b"12345678"

    run(main())


def test_a_session_is_taken_over_from_the_line_where_it_was() -> None:
    async def main() -> None:
        service = ScriptedService(lambda text: ["so ", HOLD, text])
        async with connect(service) as old, connect(service, hello=False) as new:
            assert old.welcome is not None
            old.say(Ask(1, 0, "hi", {}))
            await old.next(Chunk)
            assert (await new.hello(old.welcome.token)).resumed
            await old.running
            assert service.left == []
            new.say(Ask(1, 3, None, {}))
            service.release.set()
            assert (await new.answer())[0] == "hi"

    run(main())


def test_a_device_that_begins_anew_on_the_same_line() -> None:
    async def main() -> None:
        service = ScriptedService(lambda text: ["so ", HOLD, text])
        async with connect(service) as peer:
            assert peer.welcome is not None
            peer.say(Ask(1, 0, "hi", {}))
            await peer.next(Chunk)
            peer.link.close()
            assert (await peer.hello(peer.welcome.token, nonce=2)).resumed
            assert service.left == ["session 1"]
            peer.say(Ask(1, 3, None, {}))
            service.release.set()
            assert (await peer.answer())[0] == "hi"
            peer.link.close()
            assert not (await peer.hello(nonce=3)).resumed

    run(main())


def test_a_frame_that_does_not_get_through_makes_a_new_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        service = ScriptedService(lambda text: ["so ", HOLD, text])
        async with connect(service) as peer:
            assert peer.welcome is not None
            peer.say(Ask(1, 0, "hi", {}))
            await peer.next(Chunk)
            with monkeypatch.context() as patch:
                patch.setattr(Reliable, "stuck", True)
                peer.say(Ping())
                assert (await peer.next(Failed)).code == "hello"
            assert service.left == ["session 1"]
            peer.link.close()
            assert (await peer.hello(peer.welcome.token, nonce=2)).resumed

    run(main())


def test_cancelling_leaves_the_session() -> None:
    async def main() -> None:
        service = ScriptedService(lambda text: [text, HOLD])
        async with connect(service) as peer:
            peer.say(Ask(1, 0, "hi", {}))
            await peer.next(Chunk)
            peer.running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await peer.running
            assert service.left == ["session 1"]

    run(main())


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (BusyError(9, 700), ("busy: 9 requests are waiting; ask again in 700 ms", 700, 9)),
        (BackendError("the service is shutting down"), ("the service is shutting down", 1000, 0)),
        (ZeroDivisionError("secret"), (INTERNAL, 1000, 0)),
    ],
)
@pytest.mark.parametrize("again", [False, True])
def test_no_session(
    monkeypatch: pytest.MonkeyPatch, error: Exception, told: tuple[object, ...], again: bool
) -> None:
    def fail(*_: object) -> None:
        raise error

    async def main() -> None:
        service = ScriptedService()
        async with connect(service, hello=again) as peer:
            with monkeypatch.context() as patch:
                patch.setattr(ScriptedService, "enter", fail)
                peer.link.close()
                peer.say(Hello(2, b"", "device", 244, 32768))
                failed = await peer.next(Failed)
                assert failed.code == "hello"
                assert (failed.text, failed.retry_ms, failed.place) == told
                assert service.left == ["session 1"] * again
            await peer.hello(nonce=2)
            peer.say(Ask(1, 0, "hi", {}))
            assert (await peer.answer())[0] == "hi"

    run(main())


def test_strangers_are_told_to_say_hello() -> None:
    async def main() -> None:
        service = ScriptedService()
        async with connect(service, hello=False) as peer:
            peer.link.reset(244, 32768)
            peer.say(Ask(1, 0, "hi", {}))
            assert (await peer.next(Failed)).code == "hello"
            assert service.asked == []

    run(main())


def test_a_hello_that_is_none_is_complained_about() -> None:
    async def main() -> None:
        async with connect(hello=False) as peer:
            await peer._wire.write(frames.encode(b"\x01\0\0\x08" + b"\x91\x02"))  # version 2
            failed = await peer.next(Failed)
            assert (failed.code, failed.retry_ms) == ("hello", 1000)
            assert failed.text.startswith("Hello: speaks")
            await peer.hello()

    run(main())


# Deadlines and secrets


def test_who_does_not_say_hello_in_time_is_let_go() -> None:
    async def main() -> None:
        async with connect(hello=False, handshake=5) as peer:
            await peer.running
            assert now() == pytest.approx(5)
        async with connect(hello=False, idle=7) as peer:
            await peer.running
            assert now() == pytest.approx(12)
        async with connect(handshake=5) as peer:
            await asyncio.sleep(10)
            assert not peer.running.done()

    run(main())


def test_idle_peers_are_let_go() -> None:
    async def main() -> None:
        service = ScriptedService()
        async with connect(service, idle=60) as peer:
            for _ in range(3):
                await asyncio.sleep(50)
                peer.say(Ping())
            begin = now()
            await peer.running
            assert now() - begin == pytest.approx(60, abs=0.1)
            assert service.left == ["session 1"]

    run(main())


def test_waiting_for_an_answer_is_not_idle() -> None:
    async def main() -> None:
        async with connect(ScriptedService(lambda text: [200.0, text]), idle=60) as peer:
            peer.say(Ask(1, 0, "hi", {}))
            await asyncio.sleep(199)
            assert not peer.running.done()

    run(main())


def test_a_peer_that_vanishes_in_an_answer_is_idle() -> None:
    async def main() -> None:
        async with connect(ScriptedService(lambda text: [text * 2000]), idle=60) as peer:
            peer.say(Ask(1, 0, "hi", {}))
            await peer.next(Chunk)
            peer.cable.ends[1].stuck = True  # it says nothing more
            begin = now()
            await peer.running
            assert now() - begin == pytest.approx(60, abs=1)

    run(main())


async def sign_in(peer: Peer, secret: bytes) -> None:
    hello = Hello(1, b"", "device", 244, 32768)
    peer.say(hello)
    challenge = await peer.next(Challenge)
    peer.say(Hello(1, b"", "device", 244, 32768, sign(secret, challenge.challenge, hello)))


def test_the_secret() -> None:
    async def main() -> None:
        service = ScriptedService()
        async with connect(service, hello=False, secret=SECRET) as peer:
            await sign_in(peer, SECRET)
            await peer.next(Welcome)
            peer.say(Ask(1, 0, "hi", {}))
            assert (await peer.answer())[0] == "hi"
            assert peer.framed.refused == 0
        async with connect(service, hello=False, secret=SECRET) as peer:
            for count in range(1, MAX_WRONG + 1):
                await sign_in(peer, b"wrong")
                assert (await peer.next(Failed)).code == "auth"
                assert peer.framed.refused == count
            await peer.running
        assert len(service.entered) == 1

    run(main())


# Bounds


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


# With the model of a device


async def attach(device: Device, wire: Plug, heard: Callable[[object], None]) -> None:
    """Drive a device until the line is cut."""
    device.connected(now())
    try:
        while True:
            if data := device.output(now()):
                await wire.write(data)
                continue
            try:
                async with asyncio.timeout_at(device.deadline()):
                    data = await wire.read()
            except TimeoutError:
                continue
            for event in device.receive(data, now()):
                heard(event)
    except LinkError:
        device.lost()


class User:
    """Puts one question after the other to a device and keeps what comes."""

    def __init__(self, device: Device, questions: list[str]) -> None:
        self.device = device
        self.answers: list[str] = []
        self.finished = asyncio.Event()
        self.back: float | None = None
        """When the line came back, until the answer goes on."""
        self.waits: list[float] = []
        """How long that took each time."""
        self._questions = iter(questions)
        self._ask()

    def _ask(self) -> None:
        question = next(self._questions, None)
        if question is None:
            self.finished.set()
        else:
            self.device.ask(question)
            self.answers.append("")

    def hear(self, event: object) -> None:
        if isinstance(event, Piece | Answered) and self.back is not None:
            self.waits.append(now() - self.back)
            self.back = None
        match event:
            case Piece(text):
                self.answers[-1] += text
            case Answered():
                self._ask()
            case Refused():
                raise AssertionError(event)


async def plug_in(
    framed: Framed, cable: Cable, user: User, seconds: float, pieces: int = -1
) -> None:
    """Let them talk for so long, or so many pieces of answers, or until all is said."""

    def hear(event: object) -> None:
        nonlocal pieces
        user.hear(event)
        pieces -= isinstance(event, Piece)
        if user.finished.is_set() or pieces == 0:
            cable.cut()

    user.back = now()
    attached = attach(user.device, cable.ends[1], hear)
    talk = asyncio.gather(framed.run(), attached, return_exceptions=True)
    await asyncio.wait([talk], timeout=seconds)
    cable.cut()
    lost, failed = await talk
    assert isinstance(lost, LinkError)
    assert failed is None


def answer_to(question: str) -> list[object]:
    """A text of 0 to 4 KB in pieces, with pauses."""
    noise = random.Random(question)
    pieces: list[object] = []
    for _ in range(noise.choice([0, 1, noise.randrange(100), noise.randrange(700)])):
        pieces.append("".join(noise.choices("abc dé🙂\n", k=noise.randrange(1, 8))))
        if noise.random() < 0.5:
            pieces.append(noise.choice([0.001, 0.01]))
    return pieces


@pytest.mark.parametrize("conditions", [CLEAN, BAD], ids=["clean", "bad"])
def test_answers_arrive_exactly_once_whatever_the_line_does(conditions: Conditions) -> None:
    count = 2000 if SOAK else 20
    noise = random.Random(7)

    async def main() -> None:
        service = ScriptedService(answer_to)
        questions = [f"question {number}" for number in range(count)]
        device = Device("greenhouse")
        user = User(device, questions)
        lines = 0
        while not user.finished.is_set():
            lines += 1
            cable = Cable(Line(conditions, lines))
            framed = Framed(cable.ends[0], service, f"line#{lines}", baud=conditions.baud)
            await plug_in(framed, cable, user, noise.expovariate(1 / 0.5))
            await asyncio.sleep(noise.uniform(0, 1))
            assert now() < 60 * count
        assert user.answers == [
            "".join(piece for piece in answer_to(question) if isinstance(piece, str))
            for question in questions
        ]
        assert [text for _, text in service.asked] == questions  # nothing was generated twice
        assert lines > 3
        if conditions is CLEAN:
            assert max(user.waits) < 1

    run(main())


def test_answers_of_a_model_arrive_exactly_once() -> None:
    questions = [f"question {number}" for number in range(4)]

    def chat(messages: Iterable[ChatMessage]) -> str:
        return "".join(f"<turn>{m['role'][0]}{m['content']}<eos>" for m in messages) + "<turn>a"

    async def main() -> None:
        scheduler = Scheduler(ToyExecutor(context=4096), ToyTokenizer())
        greedy = Sampling(temperature=0)
        async with scheduler:
            service = Conversations(scheduler, ToyTokenizer(), chat, sampling=greedy, max_tokens=99)
            device = Device("greenhouse")
            user = User(device, questions)
            lines = 0
            while not user.finished.is_set():
                lines += 1
                cable = Cable(Line(CLEAN, lines))
                framed = Framed(cable.ends[0], service, f"line#{lines}")
                await plug_in(framed, cable, user, seconds=20, pieces=1)
            expected = []
            for question in questions:
                pieces = [event async for event in service.ask("directly", question)]
                expected.append("".join(one.text for one in pieces if isinstance(one, Text)))
            assert user.answers == expected
            assert all(expected)
            assert lines >= len(questions)

    asyncio.run(main())


def test_devices_are_told_of_the_machine_and_of_what_still_holds() -> None:
    service = ScriptedService()

    async def main() -> None:
        async with connect(service) as peer:
            service.notices.tell("it is hot", holds=True)
            assert await peer.next(Note) == Note("it is hot")
        async with connect(service) as peer:
            assert await peer.next(Note) == Note("it is hot")
            service.notices.tell("it is cool again")
            assert await peer.next(Note) == Note("it is cool again")
        service.notices.tell("to nobody")

    run(main())
