from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgellm import cli
from edgellm.commands import link
from edgellm.errors import UsageError

SERVER = """
import asyncio, sys
from scripted import ScriptedService
from edgellm.channel import Call
from edgellm.errors import BusyError, ContextError
from edgellm_plugins.socket_channel import SocketChannel

def script(text):
    if text == "busy":
        raise BusyError(3, 700)
    if text == "long":
        raise ContextError("too long")
    if text == "call":
        return [Call(1, "add", {"a": 2, "b": 3}, 5.0), "called"]
    if text == "slow":
        return ["be", 60.0]
    return ["you said ", text]

asyncio.run(SocketChannel(sys.argv[1]).serve(ScriptedService(script)))
"""
TOOLS = """
def add(a: int, b: int) -> int:
    "Adds."
    print("adding", a, b)
    return a + b
"""
SECRET = "of our own, and long"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Starts a service with URL options, gives its URL."""
    with contextlib.ExitStack() as stack:

        def start(options: str = "") -> str:
            path = tmp_path_factory.mktemp("service") / "socket"
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", SERVER, f"unix://{path}{options}"],
                    stderr=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
                )
            )
            stack.callback(process.kill)
            assert process.stderr is not None
            assert process.stderr.readline().startswith("# listening on")
            return f"unix://{path}"

        yield start


@pytest.fixture(scope="module")
def url(service: Any) -> str:
    return str(service())


def test_one_question(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["link", url, "-p", "hällo"]) == 0
    assert capfd.readouterr() == ("you said hällo\n", "")


def test_lines_of_standard_input(
    url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lines"
    file.write_bytes(b"one\r\n\n/new\n/status\nlong\n/nothing\n/help\ntwo")
    with file.open() as lines:
        monkeypatch.setattr(sys, "stdin", lines)
        assert cli.main(["link", url]) == 1
    out, err = capfd.readouterr()
    assert out == "you said one\nyou said two\n"
    said = err.splitlines()
    assert said[:3] == [
        "# model scripted, sessions 1",
        "# too long",
        "# unknown command /nothing; /help lists the commands",
    ]
    assert [line.split()[1] for line in said[3:]] == ["/new", "/status", "/help"]


def test_a_terminal_is_left_by_interrupt(url: str) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgellm", "link", url],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stderr is not None
        assert process.stderr.read(2) == b"> "
        os.write(ours, b"hello\n")
        assert process.stdout is not None
        assert process.stdout.readline() == b"you said hello\n"
        assert process.stderr.read(2) == b"> "
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == b""
    os.close(ours)
    os.close(theirs)


def test_sigterm_ends_it_with_a_word(url: str) -> None:
    command = [sys.executable, "-m", "edgellm", "link", url, "-p", "slow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(2) == b"be"
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM
        assert process.stderr.read() == b"edgellm: ended by SIGTERM\n"


def test_exit_statuses(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["link", url, "-p", "busy", "--timeout", "0.5"]) == 7
    assert cli.main(["link", url, "-p", "slow", "--timeout", "0.2"]) == 6
    out, err = capfd.readouterr()
    assert out == "be"
    assert err == (
        "# busy: 3 requests are waiting; ask again in 700 ms; waiting\n"
        "edgellm: busy: 3 requests are waiting; ask again in 700 ms\n"
        f"edgellm: {url}: no answer within 0.2 s\n"
    )
    assert cli.main(["link", url, "-p", "x", "--timeout", "-1"]) == 2
    assert cli.main(["link", "gopher://x", "-p", "x"]) == 2


def test_tools_and_trace(url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tools.py"
    file.write_text(TOOLS)
    assert cli.main(["link", url, "-p", "call", "--tools", str(file), "--trace"]) == 0
    out, err = capfd.readouterr()
    assert out == "adding 2 3\ncalled\n"
    shown = [line[10:].split(" seq ")[0] for line in err.splitlines()]
    kinds = [line for line in shown if not line.endswith("ACK")]
    assert kinds[:2] == ["> HELLO", "< WELCOME"]
    assert kinds[-6:] == ["< ACCEPT", "< CALL", "> RESULT", "< TEXT", "< DONE", "> TAKEN"]
    assert "call=1, name='add', arguments={'a': 2, 'b': 3}" in err
    assert "call=1, status='ok', value=5" in err


def test_secrets(
    service: Any,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET)
    file.chmod(0o600)
    url = service(f"?token={file}&backoff=0")
    assert cli.main(["link", url, "-p", "x", "--token", SECRET]) == 0
    assert cli.main(["link", url, "-p", "x", "--token-file", str(file)]) == 0
    monkeypatch.setenv("EDGELLM_TOKEN", SECRET)
    assert cli.main(["link", url, "-p", "x"]) == 0
    monkeypatch.delenv("EDGELLM_TOKEN")
    assert capfd.readouterr() == ("you said x\n" * 3, "")
    assert cli.main(["link", url, "-p", "x"]) == 6
    assert cli.main(["link", url, "-p", "x", "--token", "wrong" * 4]) == 6
    assert cli.main(["link", url, "-p", "x", "--token", SECRET, "--token-file", str(file)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "wants a secret" in err
    assert "wrong secret" in err
    assert "exclude each other" in err


def test_known_secret_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGELLM_TOKEN", raising=False)
    options = cli.parser("link").parse_args(["link", "unix:///x"])
    assert link.known_secret(options) is None
    monkeypatch.setenv("EDGELLM_TOKEN", "short")
    with pytest.raises(UsageError, match="EDGELLM_TOKEN"):
        link.known_secret(options)
