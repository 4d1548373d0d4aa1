"""Histories of whole services, in processes of their own."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_models

from edgellm.client import Client
from edgellm.commands import host, options
from edgellm.errors import UsageError


def test_what_decides_an_answer_is_told_from_what_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "tiny.gguf"
    small_models.write_gguf(model, "llama", layers=1)
    dated = "{{ strftime_now('%d %b') }} {% for m in messages %}{{ m['content'] }}{% endfor %}"

    def mark(*given: str, epoch: int = 86400) -> str:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(epoch))
        parser = argparse.ArgumentParser()
        for add in (options.add_model, options.add_running, options.add_conversation):
            add(parser)
        options.add_adapters(parser)
        options.add_sampling(parser)
        parsed = parser.parse_args([str(model), "-c", "64", *given])
        with host.load(parsed) as loaded:
            return host.fingerprint(loaded, parsed)()

    plain, today = mark(), mark("--chat-template", dated)
    assert plain == mark("--seed", "5", epoch=2 * 86400)
    assert today == mark("--chat-template", dated, epoch=86401)
    others = [
        *(mark("--temp", "0"), mark("-n", "9"), mark("-c", "32"), mark("-sys", "x")),
        mark("--chat-template", dated, epoch=2 * 86400),
    ]
    small_models.write_gguf(model, "llama", layers=2)
    assert len({plain, today, *others, mark()}) == 8


@contextlib.contextmanager
def serving(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "edgellm", "serve", *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            while "listening" not in server.stderr.readline():
                assert server.poll() is None
            yield server
        finally:
            server.kill()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_completes_its_answer_when_it_is_back(
    tmp_path: Path, end: signal.Signals
) -> None:
    model = tmp_path / "tiny.gguf"
    small_models.write_gguf(model, "llama", layers=1)
    path, folder = tmp_path / "socket", tmp_path / "sessions"
    arguments = [model, "-no-cnv", "-c", "256", "-n", "1500", "--context-shift"]
    arguments += ["-l", "2-inf"]  # no end by chance
    arguments += ["--history", folder, "--channel", f"unix://{path}"]
    pieces: list[str] = []
    kills = 0

    async def ask(client: Client) -> None:
        async for piece in client.ask("the lamp"):
            pieces.append(piece)
            if len(pieces) == 1:
                reached.set()

    async def talk() -> None:
        nonlocal kills
        async with asyncio.timeout(120), Client(f"unix://{path}") as client:
            asking = asyncio.create_task(ask(client))
            for _ in range(2):
                with serving(*arguments) as server:
                    await reached.wait()
                    kills += not asking.done()
                    server.send_signal(end)
                    await asyncio.to_thread(server.wait)
            with serving(*arguments):
                await asking
                assert client.done is not None
                assert client.done.tokens == 1500

    reached = asyncio.Event()
    asyncio.run(talk())
    assert kills >= 1
    assert "".join(pieces).startswith("the lamp")
    files = list(folder.glob("*.journal"))
    assert len(files) == 1
    assert "".join(pieces).encode() in files[0].read_bytes(), "exactly what the service said"
    assert os.stat(folder).st_mode & 0o777 == 0o700


def test_a_second_service_is_told_to_keep_off(tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    small_models.write_gguf(model, "llama", layers=1)
    folder = tmp_path / "sessions"

    def arguments(name: str, history: object) -> list[object]:
        return [model, "--history", history, "--channel", f"unix://{tmp_path / name}"]

    with serving(*arguments("one", folder)):
        command = [sys.executable, "-m", "edgellm", "serve", *map(str, arguments("two", folder))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert f"{folder}: another edgellm keeps its sessions there; end it, or" in done.stderr
        assert len(done.stderr.splitlines()) == 1, "before it loads its model"
        with serving(*arguments("three", "off")):
            pass


def test_where_sessions_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError

    def folder(*given: str) -> Path | None:
        parser = argparse.ArgumentParser()
        options.add_history(parser)
        options.add_model_file(parser)
        return options.history_folder(parser.parse_args([*given, "--model", model]))

    model = str(tmp_path / "a.gguf")
    Path(model).touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert folder() == tmp_path / "edgellm" / "sessions" / "a.gguf"
    assert folder("--history", "here") == Path("here")
    assert folder("--history", "off") is None
    with monkeypatch.context() as patch:
        patch.delenv("XDG_STATE_HOME")
        patch.setattr(Path, "home", homeless)
        with pytest.raises(UsageError, match=r"no home folder; .* or give --history a folder, or"):
            folder()
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/edgellm:/else")
    assert folder() == Path("/var/lib/edgellm/sessions/a.gguf")
    monkeypatch.chdir(tmp_path)
    model = "."
    assert folder() == Path("/var/lib/edgellm/sessions") / tmp_path.name
    for days in ("0", "-1", "nan", "inf", "x"):
        with pytest.raises(SystemExit, match="2"):
            folder("--history-days", days)
