from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import stat
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest
from scripted import HOLD, ScriptedService

from edgellm.errors import UsageError
from edgellm_plugins.socket_channel import CHUNK, SocketChannel, edgellm_channel

LOCAL = "tcp://127.0.0.1:0"


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, text: str) -> None:
        self.writer.write(text.encode())

    async def line(self) -> str:
        async with asyncio.timeout(5):
            return (await self.reader.readline()).decode()

    async def rest(self) -> str:
        """All that comes until the server closes."""
        async with asyncio.timeout(5):
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
    async with asyncio.timeout(5):
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
            async with asyncio.timeout(5):
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
        if text != "endless":
            yield text
        while text == "endless":
            yield "x" * 1000

    async def main() -> None:
        async with serving(capsys, service=ScriptedService(script)) as server:
            stuck, other = await server.connect(), await server.connect()
            stuck.writer.transport.pause_reading()
            stuck.say("endless\n")
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
            client.writer.write(b"\xff\n\0\0frame\0\n" + b"x" * 10 * CHUNK + b"\nhello\n")
            lines = [await client.line() for _ in range(4)]
            assert [line[:2] for line in lines] == ["! ", "! ", "! ", "he"]

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
            async with asyncio.timeout(5):
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
        ("tcp://127.0.0.1:7070?allow=all", "known are loopback, any"),
        ("tcp://127.0.0.1", "no port"),
        ("tcp://:7070", "no host"),
        ("tcp://127.0.0.1:99999", "Port out of range"),
        ("tcp://127.0.0.1:http", "Port could not be cast"),
        ("tcp://[::1:7070", "Invalid IPv6 URL"),
        ("tcp://127.0.0.1:7070?clients=0", "clients is '0'"),
        ("tcp://127.0.0.1:7070?idle=soon", "idle is 'soon'"),
        ("tcp://127.0.0.1:7070?baud=9600", "unknown option 'baud'"),
        ("unix://", "no path"),
        ("unix:///run/a%00b", "no path"),
        ("unix:///run/x?allow=any", "unknown option 'allow'"),
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
