from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable

import pytest
from scripted import HOLD, ScriptedService
from socket_clients import LOCAL, closed, hold, serving

from edgellm.link.lines import MAX_LINE
from edgellm_plugins.socket_channel import SocketChannel, edgellm_channel


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
