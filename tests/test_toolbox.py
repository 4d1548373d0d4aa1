"""Toolboxes: functions are called as their tools say, and whatever goes wrong is told."""

from __future__ import annotations

import asyncio
import time

import pytest

from edgellm.errors import UsageError
from edgellm.tools.tool import Tool
from edgellm.tools.toolbox import MAX_TROUBLE, Toolbox

LEVEL = {"type": "integer", "minimum": 0, "maximum": 9}
SCHEMA = {"type": "object", "properties": {"level": LEVEL}, "required": ["level"]}


async def later(level: int) -> str:
    await asyncio.sleep(0)
    return f"level {level}"


def broken(level: int) -> None:
    raise OSError("x" * 2000)


def slow(level: int) -> None:
    time.sleep(0.5)


def impatient(level: int) -> None:
    raise TimeoutError("the fan is silent")


BOX = Toolbox(
    [
        (Tool(function.__name__, "", SCHEMA), function)
        for function in (later, broken, slow, impatient)
    ]
)


def called(name: str, level: object = 3, limit_s: float | None = None) -> tuple[bool, object]:
    return asyncio.run(BOX.call(name, {"level": level}, limit_s))


def test_what_a_function_returns_is_the_result() -> None:
    assert called("later") == (True, "level 3")


def test_whatever_goes_wrong_is_told() -> None:
    assert called("pump") == (False, "LookupError: there is no tool pump")
    ok, text = called("later", 10)
    assert not ok
    assert "level" in str(text)
    ok, text = called("broken")
    assert (ok, len(str(text))) == (False, MAX_TROUBLE)
    assert called("slow", limit_s=0.01) == (False, "no result within 0.01 s")
    assert called("impatient") == (False, "no result: the fan is silent")


def test_tools_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(UsageError, match="there are two of that name"):
        Toolbox([(Tool("fan", ""), later), (Tool("fan", ""), slow)])
