"""edgellm status, against a service in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgellm import cli

SERVER = """
import asyncio, sys
from scripted import ScriptedService
from edgellm_plugins.socket_channel import SocketChannel

asyncio.run(SocketChannel(sys.argv[1]).serve(ScriptedService()))
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("service") / "socket"
    secret = path.with_name("secret")
    secret.write_text("of our own, and long")
    secret.chmod(0o600)
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, f"unix://{path}?token={secret}"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("# listening on")
        yield f"unix://{path}"
        process.kill()


def test_for_people_and_for_machines(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGELLM_TOKEN", "of our own, and long")
    assert cli.main(["status", url, "--timeout", "60"]) == 0
    assert capsys.readouterr().out == "model     scripted\nsessions  1\n"
    assert cli.main(["status", url, "--timeout", "60", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"model": "scripted", "sessions": 1}


def test_a_service_that_does_not_let_us_in(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", url, "--timeout", "60"]) == 6
    assert "wants a secret" in capsys.readouterr().err


def test_no_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"unix://{tmp_path / 'nothing'}"
    assert cli.main(["status", url, "--timeout", "0.3"]) == 6
    error = capsys.readouterr().err
    assert error.startswith(f"edgellm: {url}: ")
    assert "waiting" not in error
    assert cli.main(["status", url, "--timeout", "0"]) == 2
