"""Which addresses are listened on."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest
from scripted import ScriptedService
from socket_clients import serving

from edgellm.errors import UsageError
from edgellm_plugins.socket_channel import SocketChannel, edgellm_channel


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
