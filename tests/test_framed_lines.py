"""Lines that come and go, deadlines and secrets."""

from __future__ import annotations

import asyncio
import zlib

import pytest
from framed_peer import SECRET, Peer, connect, frame
from scripted import HOLD, MemoryWire, ScriptedService
from virtual_time import now, run

from edgellm.delivery import INTERNAL
from edgellm.errors import (
    BackendError,
    BusyError,
    LinkError,
)
from edgellm.framed import MAX_WRONG, Framed
from edgellm.link import frames
from edgellm.link.host import sign
from edgellm.link.messages import (
    Ask,
    Challenge,
    Chunk,
    Failed,
    Hello,
    Ping,
    Welcome,
)
from edgellm.link.reliable import Reliable


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
