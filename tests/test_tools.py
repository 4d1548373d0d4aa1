"""Tools: declarations out of a device's hands."""

from __future__ import annotations

from typing import Any

import pytest

from edgellm.errors import UsageError
from edgellm.tools.tool import MAX_SIZE, MAX_TOOLS, Tool, check_all

FAN = ["fan", "Sets\nthe fan", {"type": "object", "properties": {"on": {"type": "boolean"}}}, 1]


def test_a_declaration_becomes_a_tool_and_back() -> None:
    tool = Tool.check(FAN)
    assert (tool.name, tool.danger) == ("fan", 1)
    assert tool.declaration() == FAN
    assert tool.line() == "fan(on?: boolean) - Sets the fan"
    assert tool.schema.mismatch({"on": True}) is None
    assert tool == Tool.check(FAN)
    assert Tool("now").line() == "now()"


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (1, "must be a list"),
        ({}, "must be a list"),
        (["fan"], "must be a list"),
        ([1, "", {"type": "object"}, 0], "name is '1'"),
        (["a b", "", {"type": "object"}, 0], "name is 'a b'"),
        (["fan\n", "", {"type": "object"}, 0], "name is"),
        (["x" * 65, "", {"type": "object"}, 0], "name is"),
        (["1x", "", {"type": "object"}, 0], "name is"),
        (["fan", b"", {"type": "object"}, 0], "tool fan: the description"),
        (["fan", "\ud800", {"type": "object"}, 0], "tool fan: the description"),
        (["fan", "", {"type": "object"}, 3], "tool fan: danger is 3"),
        (["fan", "", {"type": "object"}, True], "tool fan: danger is True"),
        (["fan", "", {"type": "string"}, 0], "tool fan: the parameters' type must be object"),
        (["fan", "", {"const": 1}, 0], "tool fan: the parameters' type must be object"),
        (["fan", "", None, 0], "tool fan: the parameters must be a JSON Schema"),
        (
            [
                "fan",
                "",
                {"type": "object", "properties": {"a": {"type": "string", "format": 1}}},
                0,
            ],
            "tool fan: the parameters, a: the keyword 'format' isn't supported for string",
        ),
    ],
)
def test_what_is_wrong_with_a_declaration_is_named(declared: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Tool.check(declared)


def test_a_session_has_so_many_tools_and_no_more() -> None:
    check_all([Tool(f"t{i}") for i in range(MAX_TOOLS)])
    for tools, reason in (
        ([Tool(f"t{i}") for i in range(MAX_TOOLS + 1)], "there are 65 tools"),
        ([Tool("a"), Tool("b"), Tool("a")], "tool a: there are two"),
        ([Tool("a", "x" * MAX_SIZE)], "characters as JSON"),
    ):
        with pytest.raises(UsageError, match=reason):
            check_all(tools)
