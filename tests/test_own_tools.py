"""A chat whose model calls functions of this program."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from scripted import ScriptedService

from edgellm.channel import Call, Text
from edgellm.own_tools import OwnTools
from edgellm.tools.tool import Tool
from edgellm.tools.toolbox import Toolbox

PERCENT = {"type": "object", "properties": {"percent": {"type": "integer"}}, "required": []}
FAN, WINDOW = Tool("set_fan", "Sets the fan", PERCENT), Tool("open_window", "Opens the window")


def stuck() -> None:
    raise OSError("stuck")


def script(text: str) -> list[object]:
    return [*text, Call(1, "set_fan", {"percent": 40}, 9), Call(2, "open_window", {}, 9), "!"]


def test_calls_are_made_here_and_told() -> None:
    called: list[int] = []

    def set_fan(percent: int) -> dict[str, int]:
        called.append(percent)
        return {"percent": percent}

    async def scene() -> None:
        service = ScriptedService(script)
        told: list[str] = []
        service.notices.listen(told.append)
        own = OwnTools(service, Toolbox([(FAN, set_fan), (WINDOW, stuck)]))
        for _ in range(2):
            answer = own.ask("a", "go")
            events = [event async for event in answer]
            assert "".join(event.text for event in events if isinstance(event, Text)) == "go!"
            assert not any(isinstance(event, Call) for event in events)
            assert answer.text == "go!"
        assert service.tools == {"a": [FAN, WINDOW]}
        assert service.answers[0].results[1] == (True, {"percent": 40})
        assert service.answers[0].results[2] == (False, "OSError: stuck")
        assert told[:2] == [
            'set_fan(percent=40): {"percent": 40}',
            "open_window(): error: OSError: stuck",
        ]
        own.close("a")
        assert service.closed == ["a"]

    asyncio.run(scene())
    assert called == [40, 40]


def chat(tools: Path, question: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgellm", "chat", "--tools", str(tools)],
        input=question,
        capture_output=True,
        text=True,
    )


def test_a_chat_takes_the_functions_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "fan.py").write_text('def set_fan(percent: int) -> None:\n    "Sets the fan."\n')
    done = chat(tmp_path / "fan.py", "hello\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_a_file_without_functions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    done = chat(tmp_path / "empty.py", "hello\n")
    assert done.returncode != 0
    assert "holds no functions" in done.stderr
