"""Frames on sockets, tokens, and who may connect."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from scripted import HOLD, ScriptedService
from socket_clients import LOCAL, SECRET, Client, Framed, serving

from edgellm.errors import BusyError
from edgellm.link.events import Answered, Linked, Piece, Refused
from edgellm.link.frames import encode
from edgellm_plugins import socket_channel


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_bytes(SECRET + b"\n")
    path.chmod(0o600)
    return path


def test_frames(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with serving(capsys, service=ScriptedService(lambda text: [text] * 50)) as server:
            clients = [Framed(await server.connect()) for _ in range(5)]
            for number, client in enumerate(clients):
                assert await client.answer(f"I am {number}\n") == f"I am {number}\n" * 50

    asyncio.run(main())


def test_a_framed_client_comes_back_for_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        service = ScriptedService(lambda text: [text, HOLD, "!"])
        async with serving(capsys, service=service) as server:
            client = Framed(await server.connect())
            client.device.ask("hello")
            assert await client.until(Piece) == Piece("hello")
            client.client.writer.transport.abort()
            client.device.lost()
            async with asyncio.timeout(20):
                while not service.left:
                    await asyncio.sleep(0.001)
            service.release.set()
            client.client = await server.connect()
            client.device.connected(time.monotonic())
            client.events.clear()
            linked = await client.until(Linked)
            assert isinstance(linked, Linked)
            assert linked.resumed
            assert await client.until(Piece) == Piece("!")
            assert await client.until(Answered)
            assert len(service.asked) == 1

    asyncio.run(main())


def test_a_token_opens_the_door(token: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with serving(capsys, f"{LOCAL}?token={token}") as server:
            person = await server.connect()
            person.say("hello\n")
            assert await person.line() == "! auth\n"
            person.say(f"/auth {SECRET.decode()}\nhello\n")
            assert await person.line() == "# welcome\n"
            assert await person.line() == "hello\n"
            device = Framed(await server.connect(), secret=SECRET)
            assert await device.answer("hello") == "hello"
            stranger = Framed(await server.connect(), secret=b"guess")
            refused = await stranger.until(Refused, Linked)
            assert isinstance(refused, Refused)
            assert refused.code == "auth"
        assert len(server.service.asked) == 2

    asyncio.run(main())


def test_the_token_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGELLM_TOKEN", SECRET.decode())

    async def main() -> None:
        async with serving(capsys, "tcp://0.0.0.0:0") as server:
            client = await server.connect()
            client.say("hello\n")
            assert await client.line() == "! auth\n"

    asyncio.run(main())


def test_wrong_tokens_are_refused_and_slowed_down(
    token: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        async with serving(capsys, f"{LOCAL}?token={token}") as server:
            guesser = await server.connect()
            guesser.say("/auth 1\n/auth 2\n/auth 3\n/auth 4\n/auth 5\n")
            assert await guesser.rest() == "! auth\n" * 3
            again = await server.connect()
            again.say("/auth guess\n/auth guess\n")
            again.writer.write_eof()
            assert await again.rest() == "! auth\n" * 2
            while "come again" not in (told := await (await server.connect()).rest()):
                assert told == ""
            assert told.startswith("! auth: too many wrong tokens; come again in ")

    asyncio.run(main())


def test_many_wrong_tokens(token: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = 10_000 if os.environ.get("EDGELLM_SOAK") else 900

    async def main() -> None:
        async with serving(capsys, f"{LOCAL}?token={token}&backoff=0") as server:
            refused = 0
            while refused < count:
                client = await server.connect()
                client.say("".join(f"/auth {refused + number:016}\n" for number in range(3)))
                told = await client.rest()
                assert told == "! auth\n" * 3
                refused += 3
                client.writer.close()
            for _ in range(count // 100):
                device = Framed(await server.connect(), secret=b"guess")
                event = await device.until(Refused, Linked)
                assert isinstance(event, Refused)
                assert event.code == "auth"
                device.client.writer.close()
            assert not server.service.entered
            assert not server.service.asked

    asyncio.run(main())


def test_strangers_have_little_time(token: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with serving(capsys, f"{LOCAL}?token={token}&handshake=0.5") as server:
            silent, half, framed, member = [await server.connect() for _ in range(4)]
            member.say(f"/auth {SECRET.decode()}\n")
            assert await member.line() == "# welcome\n"
            half.say("/au")
            framed.writer.write(b"\0")
            assert await silent.rest() == "# closed: no token for 0.5 s\n"
            assert await half.rest() == "# closed: no token for 0.5 s\n"
            await framed.rest()
            member.say("hello\n")
            assert await member.line() == "hello\n"

    asyncio.run(main())


def test_without_a_token_people_may_think(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with serving(capsys, f"{LOCAL}?handshake=0.05") as server:
            client = await server.connect()
            await asyncio.sleep(0.1)
            client.say("hello\n")
            assert await client.line() == "hello\n"

    asyncio.run(main())


def test_a_flood_of_strangers_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(socket_channel, "FAREWELLS", 3)

    async def main() -> None:
        async with serving(capsys, f"{LOCAL}?clients=1") as server:
            first = await server.connect()
            first.say("hi\n")
            assert await first.line() == "hi\n"
            for told in [await (await server.connect()).rest() for _ in range(20)]:
                assert told == "! busy 1 5000\n"

    asyncio.run(main())


def test_overload_is_always_told(capsys: pytest.CaptureFixture[str]) -> None:
    rounds = 1000 if os.environ.get("EDGELLM_SOAK") else 200

    def full(_: str) -> Iterable[object]:
        raise BusyError(8, 2000)

    async def main() -> None:
        async with serving(capsys, service=ScriptedService(full)) as server:
            person = await server.connect()
            device = Framed(await server.connect())
            for _ in range(rounds):
                person.say("hello\n")
                assert await person.line() == "! busy 8 2000\n"
                device.device.ask("hello")
                refused = await device.until(Refused, Answered)
                assert isinstance(refused, Refused)
                assert (refused.code, refused.place, refused.retry_ms) == ("busy", 8, 2000)

    asyncio.run(main())


def test_a_frame_that_is_too_long_costs_a_frame(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with serving(capsys) as server:
            client = Framed(await server.connect())
            assert await client.until(Linked)
            for _ in range(20):
                client.client.writer.write(b"\0" + b"x" * 100_000 + b"\0")
                client.client.writer.write(encode(b"\2\0\0\0" + b"x" * 10_000))
                await client.client.writer.drain()
                assert await client.answer("hello") == "hello"

    asyncio.run(main())


async def connect_as(user: int, path: Path, said: str = "hi\n") -> str:
    """What another user gets to read who connects to a socket and says something."""
    with socket.socket(socket.AF_UNIX) as connected:
        os.seteuid(user)
        try:
            connected.connect(str(path))
        finally:
            os.seteuid(0)
        client = Client(*await asyncio.open_unix_connection(sock=connected))
        client.say(said)
        client.writer.write_eof()
        told = await client.rest()
        client.writer.close()
        return told


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_unix_knows_who_comes(capsys: pytest.CaptureFixture[str]) -> None:
    async def main(folder: Path) -> None:
        path = folder / "x.sock"
        async with serving(capsys, f"unix://{path}"):
            with pytest.raises(PermissionError):
                await connect_as(12345, path)
            assert await connect_as(0, path) == "hi\n"
            path.chmod(0o666)  # somebody has been too generous
            told = await connect_as(12345, path)
            assert told.startswith("! auth: this socket isn't for the user 12345")
        async with serving(capsys, f"unix://{path}?users=daemon,12345"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o666
            assert await connect_as(12345, path) == "hi\n"
            assert "isn't for the user 12346" in await connect_as(12346, path)

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        asyncio.run(main(Path(folder)))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_who_guesses_on_a_unix_socket_keeps_no_other_user_out(
    token: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main(folder: Path) -> None:
        path = folder / "x.sock"
        async with serving(capsys, f"unix://{path}?users=12345&token={token}"):
            told = ""
            while "come again" not in told:
                told = await connect_as(12345, path, "/auth guess\n" * 3)
            assert await connect_as(0, path, f"/auth {SECRET.decode()}\nhi\n") == (
                "# welcome\nhi\n"
            )

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        asyncio.run(main(Path(folder)))


def test_unix_with_a_token(token: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        path = tmp_path / "x.sock"
        async with serving(capsys, f"unix://{path}?token={token}") as server:
            client = await server.connect()
            client.say("hello\n")
            assert await client.line() == "! auth\n"

    asyncio.run(main())
