from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import socket
import stat
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from scripted import HOLD, ScriptedAnswer, ScriptedService

from edgellm.errors import BusyError, UsageError
from edgellm.link.device import Device
from edgellm.link.events import Answered, Linked, Piece, Refused
from edgellm.link.frames import encode
from edgellm.link.host import ROOM
from edgellm.link.lines import MAX_LINE
from edgellm.link.messages import Ask, Hello, Tools, pack
from edgellm.link.send_queue import MORE
from edgellm_plugins import socket_channel
from edgellm_plugins.socket_channel import SocketChannel, edgellm_channel

LOCAL = "tcp://127.0.0.1:0"
MAX_CLIENT_BYTES = 32 * 1024
"""What a client may cost, whatever it sends."""


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


def test_schemes() -> None:
    assert isinstance(edgellm_channel("tcp://127.0.0.1:7070"), SocketChannel)
    assert isinstance(edgellm_channel("unix:///run/x"), SocketChannel)
    assert edgellm_channel("serial:///dev/ttyS0") is None
    assert edgellm_channel("console:") is None


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:0", "tcp://[::1]:0", "tcp://localhost:0"])
def test_tcp(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        if "::1" in url and not has_ipv6():
            pytest.skip("this system has no IPv6")
        async with serving(capsys, url) as server:
            client = await server.connect()
            client.say("hellö\r\n")
            assert await client.line() == "hellö\n"
            client.say("again\n")
            assert await client.line() == "again\n"

    asyncio.run(main())


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


def test_the_answer_is_whole_for_a_client_that_has_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def main() -> None:
        async with serving(capsys, service=ScriptedService(lambda text: [text] * 5000)) as server:
            client = await server.connect()
            client.say("0123456789")
            client.writer.write_eof()
            assert await client.rest() == "0123456789" * 5000 + "\n"
            await closed(server.service)

    asyncio.run(main())


async def closed(service: ScriptedService) -> None:
    async with asyncio.timeout(20):
        await service.closing.wait()


def test_clients_do_not_disturb_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with serving(capsys) as server:
            clients = [await server.connect() for _ in range(20)]
            for number, client in enumerate(clients):
                client.say(f"I am number {number}\n")
                client.writer.write_eof()
            for number, client in enumerate(clients):
                assert await client.rest() == f"I am number {number}\n"
            assert len({session for session, _ in server.service.asked}) == 20

    asyncio.run(main())


def test_a_disconnect_stops_the_answer_and_closes_the_session(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def endless(_: str) -> Iterable[object]:
        while True:
            yield "x" * 1000

    async def main() -> None:
        async with serving(capsys, service=ScriptedService(endless)) as server:
            client = await server.connect()
            client.say("go\n")
            async with asyncio.timeout(20):
                await client.reader.readexactly(5000)
            client.writer.transport.abort()
            await closed(server.service)
            assert server.service.closed == [f"{LOCAL}#1"]

    asyncio.run(main())


def test_a_client_that_reads_nothing_is_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    def endless(_: str) -> Iterable[object]:
        while True:
            yield "x" * 100_000

    async def main() -> None:
        url = f"{LOCAL}?write_timeout=0.2"
        async with serving(capsys, url, ScriptedService(endless)) as server:
            stuck = await server.connect()
            stuck.writer.transport.pause_reading()
            stuck.say("go\n")
            await closed(server.service)
            stuck.writer.transport.resume_reading()
            assert not (await stuck.rest()).endswith("\n")

    asyncio.run(main())


def test_a_stuck_client_holds_up_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    def script(text: str) -> Iterable[object]:
        return ["x" * 3_000_000, HOLD] if text == "much" else [text]

    async def main() -> None:
        async with serving(capsys, service=ScriptedService(script)) as server:
            stuck, other = await server.connect(), await server.connect()
            stuck.writer.transport.pause_reading()
            stuck.say("much\n")
            for _ in range(100):
                other.say("hello\n")
                assert await other.line() == "hello\n"

    asyncio.run(main())


def test_more_clients_than_allowed_are_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with serving(capsys, f"{LOCAL}?clients=2") as server:
            first, second = await server.connect(), await server.connect()
            for client in (first, second):
                client.say("hi\n")
                assert await client.line() == "hi\n"
            third = await server.connect()
            third.say("hi\n")
            third.writer.write_eof()
            assert await third.rest() == "! busy 2 5000\n"
            first.writer.close()
            await closed(server.service)
            fourth = await server.connect()
            fourth.say("hi\n")
            assert await fourth.line() == "hi\n"

    asyncio.run(main())


def test_many_idle_and_slow_clients_keep_nobody_out(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with serving(capsys) as server:
            for number in range(250):
                client = await server.connect()
                if number % 5 == 0:
                    client.say("half a li")
            client = await server.connect()
            async with asyncio.timeout(1):
                client.say("hello\n")
                assert await client.line() == "hello\n"

    asyncio.run(main())


def test_garbage_costs_error_lines_not_the_connection(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with serving(capsys) as server:
            client = await server.connect()
            client.writer.write(b"\xff\n" + b"x" * 2 * MAX_LINE + b"\nhello\n")
            lines = [await client.line() for _ in range(3)]
            assert [line[:2] for line in lines] == ["! ", "! ", "he"]

    asyncio.run(main())


def test_idle_clients_are_let_go(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with serving(capsys, f"{LOCAL}?idle=0.05") as server:
            client = await server.connect()
            assert await client.rest() == "# closed: no line for 0.05 s\n"

    asyncio.run(main())


def test_stopping_closes_the_clients_and_their_sessions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def main() -> None:
        service = ScriptedService(hold)
        async with serving(capsys, service=service) as server:
            client = await server.connect()
            client.say("hi\n")
            async with asyncio.timeout(20):
                await service.held.wait()
        assert service.closed == [f"{LOCAL}#1"]
        assert service.answers[0].stopped.is_set()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("tcp://0.0.0.0:7070", r"add \?allow=any"),
        ("tcp://[::]:7070", r"add \?allow=any"),
        ("tcp://192.168.1.5:7070", r"add \?allow=any"),
        ("tcp://example.org:7070", r"add \?allow=any"),
        ("tcp://0.0.0.0:7070", r"give a secret \(\?token=FILE\)"),
        ("tcp://0.0.0.0:7070?token=/nowhere/token", "/nowhere/token: no such file; make one"),
        ("tcp://127.0.0.1:7070?handshake=0", "handshake is '0'"),
        ("tcp://127.0.0.1:7070?backoff=-1", "backoff is '-1'"),
        ("tcp://127.0.0.1:7070?users=root", "unknown option 'users'"),
        ("unix:///run/x?users=root,nobody-at-all", "no user 'nobody-at-all'"),
        ("tcp://127.0.0.1:7070?allow=all", "known are loopback, any"),
        ("tcp://127.0.0.1", "a host and a port are needed"),
        ("tcp://:7070", "a host and a port are needed"),
        ("tcp://127.0.0.1:99999", "Port out of range"),
        ("tcp://127.0.0.1:http", "Port could not be cast"),
        ("tcp://[::1:7070", "Invalid IPv6 URL"),
        ("tcp://127.0.0.1:7070?clients=0", "clients is '0'"),
        ("tcp://127.0.0.1:7070?idle=soon", "idle is 'soon'"),
        ("tcp://127.0.0.1:7070?baud=9600", "unknown option 'baud'"),
        ("unix://", "no path"),
        ("unix:///run/a%00b", "no path"),
        ("unix:///run/x?allow=any", "unknown option 'allow'"),
        ("unix:///run/x?users=,", "no user ''"),
    ],
)
def test_unusable_urls(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        edgellm_channel(url)


def test_all_addresses_if_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with serving(capsys, "tcp://0.0.0.0:0?allow=any") as server:
            client = await server.connect()
            client.say("hi\n")
            assert await client.line() == "hi\n"

    asyncio.run(main())


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with serving(capsys) as server:
            with pytest.raises(UsageError, match="in use"):
                await SocketChannel(server.address).serve(ScriptedService())

    asyncio.run(main())


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "."])
def test_names_that_no_host_can_have(host: str) -> None:
    with pytest.raises(UsageError, match=r"allow=any: "):
        asyncio.run(SocketChannel(f"tcp://{host}:0?allow=any").serve(ScriptedService()))


def test_unix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "edge llm.sock"

    async def main() -> None:
        async with serving(capsys, f"unix://{tmp_path}/edge%20llm.sock") as server:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            server.address = f"unix://{path}"
            client = await server.connect()
            client.say("hello\n")
            assert await client.line() == "hello\n"
        assert not path.exists()

    asyncio.run(main())


def test_unix_replaces_a_dead_servers_socket(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def main() -> None:
        async with serving(capsys, f"unix://{path}") as server:
            client = await server.connect()
            client.say("hello\n")
            assert await client.line() == "hello\n"

    asyncio.run(main())
    assert not path.exists()


def test_unix_leaves_what_is_not_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    link = tmp_path / "link"
    link.symlink_to(file)

    async def start(path: Path) -> None:
        await SocketChannel(f"unix://{path}").serve(ScriptedService())

    async def main() -> None:
        path = tmp_path / "x.sock"
        async with serving(capsys, f"unix://{path}") as server:
            with pytest.raises(UsageError, match="another server listens"):
                await start(path)
            client = await server.connect()
            client.say("still there\n")
            assert await client.line() == "still there\n"
            os.unlink(path)
            path.write_text("somebody else's")
        assert path.read_text() == "somebody else's"
        for other in (file, link):
            with pytest.raises(UsageError, match="isn't a socket"):
                await start(other)
        with pytest.raises(UsageError, match="No such file"):
            await start(tmp_path / "nowhere" / "x.sock")
        with pytest.raises(UsageError, match="too long"):
            await start(tmp_path / ("x" * 200))

    asyncio.run(main())
    assert file.read_text() == "precious"


SECRET = b"correct horse battery staple"


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_bytes(SECRET + b"\n")
    path.chmod(0o600)
    return path


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
