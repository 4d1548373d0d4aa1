from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from scripted import HOLD, ScriptedService

from edgellm import client as client_module
from edgellm.channel import Call
from edgellm.client import Client
from edgellm.errors import (
    BusyError,
    ContextError,
    EdgeError,
    ExpiredError,
    LinkError,
    UsageError,
)
from edgellm.tools.tool import Tool
from edgellm.wire import serial_wire
from edgellm_plugins.serial_channel import SerialChannel
from edgellm_plugins.socket_channel import SocketChannel

SECRET = b"of our own, and long"
FAN = Tool(
    "fan",
    "Blows.",
    {"type": "object", "properties": {"percent": {"type": "integer", "maximum": 100}}},
)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "RETRY", 0.01)
    monkeypatch.setattr(serial_wire, "POLL", 0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


@contextlib.asynccontextmanager
async def serving(
    path: Path, service: ScriptedService, options: str = ""
) -> AsyncIterator[ScriptedService]:
    task = asyncio.create_task(SocketChannel(f"unix://{path}{options}").serve(service))
    try:
        yield service
    finally:
        task.cancel()
        await asyncio.wait([task])


async def answer(client: Client, text: str, **options: Any) -> str:
    async with asyncio.timeout(20):
        return "".join([piece async for piece in client.ask(text, **options)])


def run(talk: Callable[[], Any]) -> None:
    asyncio.run(talk())


def test_answers(path: Path) -> None:
    async def talk() -> None:
        service = ScriptedService()
        told: list[str] = []
        client = Client(f"unix://{path}", tell=told.append)
        async with client, serving(path, service):  # the socket isn't there at first
            assert await answer(client, "hällo") == "hällo"
            assert client.done is not None
            assert (client.done.reason, client.done.tokens) == ("stop", 5)
            assert await answer(client, "x", deadline_s=9, max_tokens=3, schema={}) == "x"
            assert service.options[1] == {"deadline_s": 9, "max_tokens": 3, "schema": {}}
            assert await client.status() == {"model": "scripted", "sessions": 1}
            client.new()
            assert await answer(client, "y" * 10_000) == "y" * 10_000
            assert service.forgotten == ["session 1"]
        assert service.taking == [("session 1", number) for number in (1, 2, 3)]
        assert told == [f"unix://{path}: No such file or directory; waiting for it"]

    run(talk)


def test_an_answer_goes_on_after_the_service_was_away(path: Path) -> None:
    async def talk() -> None:
        service = ScriptedService(lambda text: [text, HOLD, " is answered"])
        told: list[str] = []
        async with Client(f"unix://{path}", tell=told.append) as client:
            async with serving(path, service):
                answering = client.ask("question")
                assert await anext(answering) == "question"
                await service.held.wait()
            service.release.set()
            async with serving(path, service), asyncio.timeout(20):
                assert "".join([piece async for piece in answering]) == " is answered"
                assert await answer(client, "next") == "next is answered"
        assert [entry.resumed for entry in service.entered] == [False, True]
        assert service.asked == [("session 1", "question"), ("session 1", "next")]
        assert f"unix://{path}: closed at the other end; coming back" in told

    run(talk)


def test_a_serial_line(tmp_path: Path) -> None:
    async def talk() -> None:
        # Two pseudo-terminals, joined: the service has one, the client the other.
        ours, here = pty.openpty()
        theirs, there = pty.openpty()
        names = [os.ttyname(fd) for fd in (here, there)]
        loop = asyncio.get_running_loop()
        for source, target in ((ours, theirs), (theirs, ours)):
            loop.add_reader(source, lambda s=source, t=target: os.write(t, os.read(s, 4096)))
        serving = asyncio.create_task(SerialChannel(f"serial://{names[0]}").serve(service))
        try:
            async with Client(f"serial://{names[1]}?baud=115200") as client:
                assert await answer(client, "x" * 3000) == "x" * 3000
        finally:
            serving.cancel()
            await asyncio.wait([serving])
            for fd in (ours, theirs):
                loop.remove_reader(fd)
            for fd in (ours, here, theirs, there):
                os.close(fd)

    service = ScriptedService()
    run(talk)
    assert service.taking == [("session 1", 1)]


def test_tools(path: Path) -> None:
    def script(text: str) -> Iterable[object]:
        return [
            Call(1, "fan", {"percent": 40}, 5.0),
            Call(2, "fan", {"percent": 400}, 5.0),
            Call(3, "slow", {}, 0.05),
            Call(4, "wrong", {}, 5.0),
            Call(5, "lamp", {}, 5.0),
            Call(6, "large", {}, 5.0),
            "done",
        ]

    def fan(percent: int) -> dict[str, int]:
        return {"percent": percent}

    async def slow() -> None:
        await asyncio.sleep(10)

    def wrong() -> None:
        raise RuntimeError("jammed")

    async def talk() -> None:
        service = ScriptedService(script)
        tools = [
            (FAN, fan),
            (Tool("slow"), slow),
            (Tool("wrong"), wrong),
            (Tool("large"), lambda: "x" * 9000),
        ]
        async with serving(path, service), Client(f"unix://{path}", tools=tools) as client:
            assert await answer(client, "go") == "done"
            assert service.tools["session 1"] == [tool for tool, _ in tools]
            results = service.answers[0].results
            assert results[1] == (True, {"percent": 40})
            assert results[2] == (False, "ValueError: the arguments.percent is out of range")
            assert results[3] == (False, "no result within 0.05 s")
            assert results[4] == (False, "RuntimeError: jammed")
            assert results[5] == (False, "LookupError: there is no tool lamp")
            assert not results[6][0]

    run(talk)


def test_leaving_an_answer_stops_it(path: Path) -> None:
    async def talk() -> None:
        service = ScriptedService(lambda text: [text, HOLD] if text == "long" else [text])
        async with serving(path, service), Client(f"unix://{path}") as client:
            answering = client.ask("long")
            assert await anext(answering) == "long"
            await answering.aclose()
            assert await answer(client, "short") == "short"
            assert service.answers[0].stopped.is_set()

    run(talk)


def test_a_question_that_never_left_is_dropped(path: Path) -> None:
    async def talk() -> None:
        service = ScriptedService()
        async with Client(f"unix://{path}") as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await anext(client.ask("nobody is there"))
            async with serving(path, service):
                assert await answer(client, "somebody is") == "somebody is"
        assert [text for _, text in service.asked] == ["somebody is"]

    run(talk)


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (BusyError(3, 700), BusyError),
        (ContextError("too long"), ContextError),
        (ExpiredError("too late"), ExpiredError),
        (UsageError("no such schema"), UsageError),
        (RuntimeError("a bug"), LinkError),
    ],
)
def test_refusals(path: Path, refusal: Exception, kind: type[EdgeError]) -> None:
    def script(text: str) -> Iterable[object]:
        if text == "ask":
            raise refusal
        return [text]

    async def talk() -> None:
        async with (
            serving(path, ScriptedService(script)),
            Client(f"unix://{path}") as client,
        ):
            with pytest.raises(kind) as raised:
                await answer(client, "ask")
            assert type(raised.value) is kind
            if isinstance(raised.value, BusyError):
                assert (raised.value.place, raised.value.retry_ms) == (3, 700)
            assert await answer(client, "another") == "another"

    run(talk)


def test_secrets(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(SECRET)
    file.chmod(0o600)

    async def talk() -> None:
        service = ScriptedService()
        url = f"unix://{path}"
        async with serving(path, service, f"?token={file}&backoff=0"):
            async with Client(url, secret=SECRET) as client:
                assert await answer(client, "hello") == "hello"
            async with Client(url, secret=b"x" * 16) as client:
                with pytest.raises(LinkError, match="wrong secret"):
                    await answer(client, "hello")
                with pytest.raises(LinkError, match="wrong secret"):  # still
                    await answer(client, "hello")
            async with Client(url) as client:
                with pytest.raises(LinkError, match="wants a secret"):
                    await client.status()
        assert len(service.asked) == 1

    run(talk)


def test_a_full_service_is_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgellm_plugins.socket_channel.RETRY_MS", 20)

    async def talk() -> None:
        service = ScriptedService()
        url = f"unix://{path}"
        async with (
            serving(path, service, "?clients=1"),
            Client(url) as first,
            Client(url) as second,
        ):
            assert await answer(first, "one") == "one"
            with pytest.raises(BusyError, match="ask again in 20 ms"):
                await answer(second, "two")
            await first.__aexit__()
            while True:
                with contextlib.suppress(BusyError):
                    assert await answer(second, "two") == "two"
                    break

    run(talk)


def test_tools_that_the_service_refuses(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk() -> None:
        service = ScriptedService(lambda text: [HOLD])

        def declare(session: str, tools: object) -> None:
            raise UsageError("no fans, please")

        monkeypatch.setattr(service, "declare", declare)
        tools = [(FAN, print)]
        async with serving(path, service), Client(f"unix://{path}", tools=tools) as client:
            with pytest.raises(UsageError, match="no fans"):
                await answer(client, "hold on")

    run(talk)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("unix://", "no path"),
        ("tcp://127.0.0.1", "a host and a port are needed"),
        ("tcp://127.0.0.1:x", "[Pp]ort"),
        ("tcp://127.0.0.1:1?clients=4", "unknown option"),
        ("gopher://x", "unknown scheme 'gopher'"),
        ("serial:///dev/ttyS0?baud=fast", "baud"),
        ("", "unknown scheme"),
    ],
)
def test_unusable_urls(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Client(url)


def test_unusable_devices() -> None:
    with pytest.raises(UsageError, match="can't be announced"):
        Client("tcp://127.0.0.1:1", name="x" * 65)
    with pytest.raises(UsageError, match="fan"):
        Client("tcp://127.0.0.1:1", tools=[(FAN, print), (FAN, print)])


def test_a_service_that_hangs_up_is_told_of_once(path: Path) -> None:
    came = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        await reader.read(1)
        came += 1
        writer.close()

    async def talk() -> None:
        told: list[str] = []
        server = await asyncio.start_unix_server(hang_up, path)
        async with Client(f"unix://{path}", tell=told.append), asyncio.timeout(20):
            while came < 5:
                await asyncio.sleep(0.01)
        server.close()
        assert told == [f"unix://{path}: closed at the other end; coming back"]

    run(talk)


def test_nobody_there(path: Path) -> None:
    async def talk() -> None:
        begun = time.monotonic()
        async with Client("tcp://127.0.0.1:1"), Client(f"serial://{path}"):
            await asyncio.sleep(0.05)
        assert time.monotonic() - begun < 5

    run(talk)
