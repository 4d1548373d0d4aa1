from __future__ import annotations

from pathlib import Path

import pytest

from edgellm.errors import UsageError
from edgellm.tools import tool_file

EXAMPLE = Path(__file__).parents[1] / "boards" / "clients" / "greenhouse_tools.py"
GOOD = """
import math
from typing import Annotated, Literal
from pathlib import Path

def set_fan(percent: Annotated[int, 0, 100, "0 is off"], mode: Literal["in", "out"] = "in"):
    '''Sets the speed of the fan.

    At once.
    '''
    return percent

async def weigh(pot: str, exact: bool, factor: float = 1.0):
    "Weighs a pot."

def _helper():
    pass
"""


def file(tmp_path: Path, text: str, name: str = "tools.py") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_functions(tmp_path: Path) -> None:
    (fan, set_fan), (weigh, _) = tool_file.read(file(tmp_path, GOOD))
    assert set_fan(5) == 5
    assert fan.declaration() == [
        "set_fan",
        "Sets the speed of the fan.\n\nAt once.",
        {
            "type": "object",
            "properties": {
                "percent": {
                    "type": "integer",
                    "minimum": 0,
                    "maximum": 100,
                    "description": "0 is off",
                },
                "mode": {"enum": ["in", "out"]},
            },
            "required": ["percent"],
        },
        0,
    ]
    assert weigh.parameters == {
        "type": "object",
        "properties": {
            "pot": {"type": "string"},
            "exact": {"type": "boolean"},
            "factor": {"type": "number"},
        },
        "required": ["pot", "exact"],
    }


def test_a_list_says_it_itself(tmp_path: Path) -> None:
    text = """
def anything(**arguments):
    pass

def fan(on: bool):
    "Blows."

schema = {"type": "object", "properties": {"on": {"type": "boolean"}}}
TOOLS = [fan, {"function": anything, "name": "lamp", "description": "Shines.",
               "parameters": schema, "danger": 2}]
"""
    (fan, _), (lamp, _) = tool_file.read(file(tmp_path, text))
    assert (fan.name, fan.danger) == ("fan", 0)
    assert (lamp.name, lamp.description, lamp.danger) == ("lamp", "Shines.", 2)
    assert lamp.parameters["properties"] == {"on": {"type": "boolean"}}


def test_the_example() -> None:
    tools = {tool.name: (tool, function) for tool, function in tool_file.read(EXAMPLE)}
    assert set(tools) == {"read_thermometer", "set_fan", "run_pump"}
    celsius = tools["read_thermometer"][1]()
    assert isinstance(celsius, dict)
    assert 30 < celsius["celsius"] < 32
    assert tools["set_fan"][1](percent=40) == {"percent": 40}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "holds no functions"),
        ("TOOLS = 5", "holds no functions"),
        ("1/0", "ZeroDivisionError"),
        ("def f(:", "SyntaxError"),
        ("def f(): pass", "f: has no docstring"),
        ("def f(x): 'F.'", "f: x needs the type hint"),
        ("def f(x: list): 'F.'", "f: x needs the type hint"),
        ("def f(x: 'Nothing'): 'F.'", "type hints can't be read"),
        ("def f(*x: int): 'F.'", "can't be given by name"),
        ("from typing import *\ndef f(x: Annotated[int, 1]): 'F.'", "two bounds"),
        ("from typing import *\ndef f(x: Annotated[int, 'a', 'b']): 'F.'", "two bounds"),
        ("from typing import *\ndef f(x: Annotated[int, None]): 'F.'", "two bounds"),
        ("TOOLS = [{'name': 'f'}]", "has no function"),
        ("TOOLS = [{'function': print, 'nam': 'f'}]", "unknown key 'nam'"),
        ("def f(): 'F.'\nTOOLS = [{'function': f, 'danger': 9}]", "danger is 9"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tool_file.read(file(tmp_path, text))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        tool_file.read(tmp_path / "absent.py")
    with pytest.raises(UsageError, match="isn't a Python file"):
        tool_file.read(file(tmp_path, GOOD, "tools.txt"))
