from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import AsyncIterator, Iterable

import pytest
from framed_peer import connect
from scripted import HOLD, Script, ScriptedAnswer, ScriptedService, echo
from virtual_time import now, run

from edgellm.channel import Done, Text
from edgellm.delivery import INTERNAL
from edgellm.errors import (
    BackendError,
    BusyError,
    ContextError,
    EdgeError,
    ExpiredError,
    StaleError,
    UsageError,
)
from edgellm.framed import UNSAVED
from edgellm.link.messages import (
    Accept,
    Ask,
    Chunk,
    Failed,
    Finished,
    New,
    Note,
    Ping,
    Pong,
    Result,
    StatusQuery,
    StatusReport,
    Stop,
    Taken,
)


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
