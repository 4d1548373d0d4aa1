from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable

import pytest
from scripted import HOLD, MemoryWire, Script, ScriptedAnswer, ScriptedService, echo
from virtual_time import run

from edgellm.channel import Priority, Text
from edgellm.connection import Connection
from edgellm.delivery import INTERNAL
from edgellm.errors import BusyError, ContextError, LinkError
from edgellm.framed import MAX_WRONG
from edgellm.link import frames
from edgellm.link.host import SERVER
from edgellm.link.messages import Ask, Hello, Message, pack
from edgellm.talk import RETRY_MS

NAME = "memory#1"
BUSY = f"! busy 1 {RETRY_MS}\n".encode()
STATUS = b"# model scripted, sessions 1\n"


class Peer(MemoryWire):
    """The other end of one connection to a scripted service."""

    def __init__(self, script: Script, idle: float = 0, **options: object) -> None:
        super().__init__()
        self.service = ScriptedService(script)
        self.connection = Connection(self, self.service, NAME, idle, **options)
        self.running = asyncio.create_task(self.connection.run())

    async def end(self) -> bytes:
        """Hang up, and return all that was sent."""
        self.hang_up()
        async with asyncio.timeout(20):
            await self.running
        return self.sent

    async def held(self) -> None:
        """Wait until the answer is where its script says HOLD."""
        async with asyncio.timeout(20):
            await self.service.held.wait()
        self.service.held.clear()


@contextlib.asynccontextmanager
async def connect(script: Script = echo, idle: float = 0, **options: object) -> AsyncIterator[Peer]:
    peer = Peer(script, idle, **options)
    try:
        yield peer
    finally:
        peer.running.cancel()
        await asyncio.wait([peer.running])


def talk(data: bytes, script: Script = echo) -> bytes:
    """What one that sends `data` and ends its side gets."""

    async def main() -> bytes:
        async with connect(script) as peer:
            peer.say(data)
            sent = await peer.end()
            assert peer.service.closed == [NAME]
            return sent

    return asyncio.run(main())


def hold(text: str) -> Iterable[object]:
    return [text, HOLD, "!"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_the_answer_is_delivered_whole_although_the_peer_has_ended(end: bytes) -> None:
    assert talk("wörld".encode() + end) == "wörld\n".encode()


def test_nothing_is_sent_unasked() -> None:
    assert talk(b"") == b""
    assert talk(b"\r\n\n") == b""


def test_a_blank_line_asks_a_model_that_only_continues() -> None:
    async def main(continues: bool) -> list[tuple[str, str]]:
        wire, service = MemoryWire(), ScriptedService(continues=continues)
        wire.say(b"\r\n")
        wire.hang_up()
        await Connection(wire, service, NAME).run()
        return service.asked

    assert asyncio.run(main(continues=True)) == [(NAME, "")]
    assert asyncio.run(main(continues=False)) == []


def test_questions_one_after_another() -> None:
    async def main() -> None:
        async with connect() as peer:
            for number in range(10):
                peer.say(f"question {number}\n".encode())
                await peer.until(f"question {number}\n".encode())
            assert await peer.end() == b"".join(b"question %d\n" % n for n in range(10))
            assert peer.service.asked == [(NAME, f"question {n}") for n in range(10)]

    asyncio.run(main())


def test_a_question_during_an_answer_is_refused() -> None:
    async def main() -> None:
        async with connect(hold) as peer:
            peer.say(b"one\n")
            await peer.held()
            peer.say(b"two\n")
            peer.service.release.set()
            assert await peer.end() == b"one!\n" + BUSY
            assert peer.service.asked == [(NAME, "one")]

    asyncio.run(main())


def test_it_is_refused_at_once_while_there_is_no_text_yet() -> None:
    async def main() -> None:
        async with connect(lambda _: [HOLD, "done"]) as peer:
            peer.say(b"one\n")
            await peer.held()
            peer.say(b"two\n/status\n")
            await peer.until(BUSY + STATUS)
            peer.service.release.set()
            assert await peer.end() == BUSY + STATUS + b"done\n"

    asyncio.run(main())


def test_stop() -> None:
    async def main() -> None:
        async with connect(hold) as peer:
            peer.say(b"one\n")
            await peer.held()
            peer.say(b"/stop\n")
            await peer.until(b"one\n# stopped\n")
            peer.say(b"/stop\n")
            await peer.until(b"# nothing to stop\n")

    asyncio.run(main())


async def complete(peer: Peer) -> None:
    """Wait until the answer has come to its end, delivered or not."""
    async with asyncio.timeout(20):
        while not (peer.service.answers and peer.service.answers[-1].ended):
            await asyncio.sleep(0)


@pytest.mark.parametrize("ends", [True, False])
def test_stop_drops_what_waits_for_a_wire_that_blocks(ends: bool) -> None:
    async def main() -> None:
        async with connect(lambda _: [*"one two", *([] if ends else [HOLD])]) as peer:
            peer.reading.clear()
            peer.say(b"go\n")
            await (complete(peer) if ends else peer.held())
            peer.say(b"/stop\n")
            async with asyncio.timeout(20):
                await peer.service.answers[0].stopped.wait()
            peer.reading.set()
            assert await peer.end() == b"o\n# stopped\n"
            assert peer.service.answers[0].text == "o"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("command", "told"), [(b"/stop\n", b"# stopped\n"), (b"/new\n", b"# new conversation\n")]
)
def test_stop_ends_a_piece_that_is_sent_slowly(command: bytes, told: bytes) -> None:
    async def main() -> None:
        async with connect(lambda _: ["x" * 1000, "y" * 1000]) as peer:
            peer.say(b"/rate 100\ngo\n")
            await complete(peer)
            await peer.until(b"xx")
            peer.say(command)
            sent = await peer.until(told)
            assert 2 <= sent.count(b"x") < 100
            assert b"y" not in sent
            assert b"x\n# stopped\n" in sent
            peer.say(b"/rate 0\nmore\n")
            await peer.until(b"y\n")

    asyncio.run(main())


def test_new() -> None:
    async def main() -> None:
        async with connect(hold) as peer:
            peer.say(b"/new\n")
            await peer.until(b"# new conversation\n")
            assert peer.service.forgotten == [NAME]
            peer.say(b"one\n")
            await peer.held()
            peer.say(b"/new\ntwo\n")
            await peer.until(b"one\n# stopped\n# new conversation\ntwo")
            assert peer.service.forgotten == [NAME, NAME]

    asyncio.run(main())


def test_other_commands() -> None:
    assert talk(b"/status\n") == STATUS
    assert talk(b"/help\n").count(b"\n# /") == 6
    assert talk(b"/foo\n") == b"! unknown command /foo; /help lists the commands\n"
    assert talk(b"/dot on\n.x\n") == b"# dot on\n..x\n.\n"
    assert talk(b"/rate 100000\nhello\n", lambda text: [text]) == b"# rate 100000\nhello\n"


def test_rate_sends_characters_one_by_one() -> None:
    class Recorder(Peer):
        writes: list[bytes]

        async def write(self, data: bytes) -> None:
            self.writes.append(data)

    async def main() -> None:
        peer = Recorder(lambda text: [text])
        peer.writes = []
        peer.say(b"/rate 100000\nab\xc3\xa9\n")
        await peer.end()
        assert peer.writes == [b"# rate 100000\n", b"a", b"b", b"\xc3\xa9", b"\n"]

    asyncio.run(main())


def refuse(error: Exception) -> Script:
    def script(_: str) -> Iterable[object]:
        raise error

    return script


def test_errors_are_lines() -> None:
    assert talk(b"hi\n", refuse(BusyError(3, 2000))) == b"! busy 3 2000\n"
    assert talk(b"hi\n", refuse(ContextError("too\nlong"))) == b"! too long\n"
    assert talk(b"hi\n", lambda _: ["so ", ContextError("long")]) == b"so \n! long\n"
    assert talk(b"hi\n", lambda _: [ContextError("long")]) == b"! long\n"


def test_unexpected_errors_are_logged_and_told_without_details(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = ZeroDivisionError("secret")

    async def broken(_: ScriptedAnswer) -> AsyncIterator[Text]:
        yield Text("so ")
        raise secret

    with caplog.at_level(logging.ERROR):
        assert talk(b"hi\n", refuse(secret)) == f"! {INTERNAL}\n".encode()
    assert "secret" in caplog.text
    caplog.clear()
    monkeypatch.setattr(ScriptedAnswer, "__aiter__", broken)
    with caplog.at_level(logging.ERROR):
        assert talk(b"hi\n") == f"so \n! {INTERNAL}\n".encode()
    assert "secret" in caplog.text


def test_the_connection_lives_on_after_an_error() -> None:
    def script(text: str) -> Iterable[object]:
        return [ContextError("long")] if text == "bad" else [text]

    async def main() -> None:
        async with connect(script) as peer:
            peer.say(b"bad\n")
            await peer.until(b"! long\n")
            peer.say(b"good\n")
            await peer.until(b"good\n")

    asyncio.run(main())


def test_a_lost_line_ends_the_answer_and_the_session() -> None:
    async def main() -> None:
        async with connect(hold) as peer:
            peer.say(b"one\n")
            await peer.held()
            peer.broken = True
            peer.service.release.set()
            async with asyncio.timeout(20):
                with pytest.raises(LinkError, match="the peer is gone"):
                    await peer.running
            assert peer.service.closed == [NAME]
            assert peer.service.answers[0].stopped.is_set()

    asyncio.run(main())


def test_cancelling_closes_the_session() -> None:
    async def main() -> None:
        async with connect(hold) as peer:
            peer.say(b"one\n")
            await peer.held()
            peer.running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await peer.running
            assert peer.service.closed == [NAME]

    asyncio.run(main())


def test_a_peer_that_does_not_read_holds_up_its_own_lines_only() -> None:
    async def main() -> None:
        async with connect(lambda text: "x" * 1000) as stuck, connect() as other:
            stuck.reading.clear()
            stuck.say(b"a lot\n")
            stuck.say(b"/status\n" * 1000)
            other.say(b"hello\n")
            await other.until(b"hello\n")
            assert stuck.sent == b""
            stuck.reading.set()
            assert (await stuck.end()).replace(STATUS, b"") == b"x" * 1000 + b"\n"

    asyncio.run(main())


def test_idle_peers_are_let_go() -> None:
    async def main() -> None:
        async with connect(idle=0.05) as peer, asyncio.timeout(20):
            await peer.running
            assert peer.sent == b"# closed: no line for 0.05 s\n"

    run(main())


def test_bytes_without_a_line_ending_do_not_keep_a_peer_alive() -> None:
    async def main() -> None:
        async with connect(idle=0.1) as peer, asyncio.timeout(20):
            while not peer.running.done():
                peer.say(b"x")
                await asyncio.sleep(0.01)
            assert peer.service.asked == []

    run(main())


def test_waiting_for_an_answer_is_not_idle() -> None:
    async def main() -> None:
        async with connect(hold, idle=0.02) as peer:
            peer.say(b"one\n")
            await peer.held()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await asyncio.shield(peer.running)
            peer.service.release.set()
            await peer.until(b"one!\n")

    run(main())


# The secret

SECRET = b"s3cr\xc3\xa9t"
AUTH = b"! auth\n"


def test_with_a_secret_nothing_is_answered_before_it_is_said() -> None:
    async def main() -> None:
        async with connect(secret=SECRET) as peer:
            peer.say(b"hi\n/status\n/new\n/stop\n/foo\n\n")
            await peer.until(AUTH * 5)
            peer.say(b"/auth " + SECRET + b"\nhi\n")
            assert await peer.until(b"hi\n") == AUTH * 5 + b"# welcome\nhi\n"
            assert peer.connection.refused == 0
            assert peer.service.asked == [(NAME, "hi")]
            assert peer.service.forgotten == []

    asyncio.run(main())


def test_wrong_secrets_end_the_connection() -> None:
    wrong = [b"wrong", SECRET[:-1], SECRET + b"x", SECRET.upper()]

    async def main() -> None:
        async with connect(secret=SECRET) as peer, asyncio.timeout(20):
            for guess in wrong:
                peer.say(b"/auth " + guess + b"\n")
            await peer.running
            assert peer.sent == AUTH * MAX_WRONG
            assert peer.connection.refused == MAX_WRONG
            assert peer.service.closed == [NAME]

    asyncio.run(main())


def test_without_a_secret_any_is_welcome() -> None:
    assert talk(b"/auth x\n") == b"# welcome\n"


@pytest.mark.parametrize("said", [b"x", b"\n", b"hi\n", b"/auth wrong\n", b"\0"])
def test_who_does_not_say_the_secret_in_time_is_let_go(said: bytes) -> None:
    async def main() -> None:
        async with connect(secret=SECRET, handshake=0.05) as peer, asyncio.timeout(20):
            peer.say(said)
            await peer.running
            notice = b"# closed: no token for 0.05 s\n"
            assert peer.sent.endswith(b"" if said == b"\0" else notice)

    run(main())


def test_who_has_said_it_may_take_any_time() -> None:
    async def main() -> None:
        async with connect(secret=SECRET, handshake=0.05) as peer:
            peer.say(b"/auth " + SECRET + b"\n")
            await asyncio.sleep(0.2)
            peer.say(b"hi\n")
            await peer.until(b"hi\n")

    run(main())


# Frames


def frame(message: Message, seq: int = 0) -> bytes:
    kind, payload = pack(message)
    return frames.encode(bytes((kind, seq, 0, 8)) + payload)


HELLO = frame(Hello(1, b"", "device", 244, 0))


@pytest.mark.parametrize("before", [b"", b"hel", b"\xff\xfe", b"x" * 20_000])
def test_a_zero_byte_begins_frames_for_good(before: bytes) -> None:
    async def main() -> None:
        async with connect(lambda text: [text]) as peer:
            peer.say(before + HELLO[:5])
            peer.say(HELLO[5:] + b"\nline\n")
            peer.say(frame(Ask(1, 0, "answer", {})) + b"another\n")
            async with asyncio.timeout(20):
                while b"answer" not in peer.sent:
                    await asyncio.sleep(0.01)
            assert SERVER.encode() in peer.sent
            assert peer.service.asked == [("session 1", "answer")]
            assert peer.service.closed == [NAME]
            peer.hang_up()
            await peer.running
            assert peer.service.left == ["session 1"]

    asyncio.run(main())


def test_lines_before_the_frames_are_answered() -> None:
    async def main() -> None:
        async with connect() as peer:
            peer.say(b"/status\n" + HELLO)
            async with asyncio.timeout(20):
                while SERVER.encode() not in peer.sent:
                    await asyncio.sleep(0.01)
            assert peer.sent.startswith(STATUS)

    asyncio.run(main())


@pytest.mark.parametrize("reads", [True, False])
def test_frames_end_the_answer_to_a_line(reads: bool) -> None:
    async def main() -> None:
        async with connect(hold) as peer:
            peer.say(b"one\n")
            await peer.held()
            if not reads:
                peer.reading.clear()
                peer.say(b"/status\n")
            peer.say(HELLO)
            async with asyncio.timeout(20):
                await peer.service.answers[0].stopped.wait()
                peer.reading.set()
                while SERVER.encode() not in peer.sent:
                    await asyncio.sleep(0.01)
            assert peer.service.closed == [NAME]

    asyncio.run(main())


def test_wrong_macs_count_as_wrong_secrets() -> None:
    async def main() -> None:
        async with connect(secret=SECRET) as peer, asyncio.timeout(20):
            peer.say(b"/auth wrong\n" + HELLO)
            for _ in range(MAX_WRONG):
                peer.say(frame(Hello(1, b"", "device", 244, 0, bytes(16))))
            await peer.running
            assert peer.connection.refused == 1 + MAX_WRONG
            assert peer.service.entered == []

    asyncio.run(main())


def test_who_has_said_the_secret_in_a_line_must_sign_frames_too() -> None:
    async def main() -> None:
        async with connect(secret=SECRET) as peer:
            peer.say(b"/auth " + SECRET + b"\n" + HELLO)
            await peer.until(b"\0")
            await asyncio.sleep(0.05)
            assert peer.service.entered == []

    asyncio.run(main())


@pytest.mark.parametrize(("priority", "told"), [(Priority.PERSON, True), (Priority.DEVICE, False)])
def test_people_are_told_of_the_machine_and_sketches_are_not(
    priority: Priority, told: bool
) -> None:
    async def main() -> bytes:
        async with connect(lambda text: ["so ", HOLD, "far"], priority=priority) as peer:
            peer.say(b"how far?\n")
            await peer.held()
            peer.service.notices.tell("it is hot")
            await asyncio.sleep(0.01)
            assert peer.sent == b"so "  # an answer's line isn't broken
            peer.service.release.set()
            sent = await peer.end()
            peer.service.notices.tell("to nobody")
            return sent

    assert asyncio.run(main()) == b"so far\n" + b"# it is hot\n" * told


def test_strangers_are_told_nothing_of_the_machine() -> None:
    async def main() -> bytes:
        async with connect(secret=b"secret") as peer:
            peer.service.notices.tell("it is hot", holds=True)
            await asyncio.sleep(0.01)
            return await peer.end()

    assert asyncio.run(main()) == b""
