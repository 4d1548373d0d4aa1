"""Rules for the values of schemas; that models follow them is tested with call forms."""

from __future__ import annotations

from typing import Any

import pytest
import regex

from edgellm.tools.schema import Refused, read
from edgellm.tools.schema_rules import Rules


def spelled(schema: dict[str, Any]) -> regex.Pattern[str]:
    rules = Rules()
    rules.values(read(schema, "x"))
    pattern = rules.lines[0].partition(": ")[2]
    return regex.compile(pattern.strip("/"))


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "number"}, ["0", "-1.5", "999999999999999.0"], ["1e5", "-0", "1.", "01"]),
        ({"type": "number", "minimum": 1e-9, "maximum": 2e-9}, ["0.0000000015"], ["0", "0.1"]),
        ({"type": "number", "minimum": 1e20}, None, None),
        ({"type": "integer"}, ["9007199254740992", "-9007199254740992"], ["9007199254740993"]),
        (
            {"type": "string", "maxLength": 2},
            ['"ab"', r'"\n\""', '""'],
            ['"abc"', '"\n"', '"\\u0041"'],
        ),
        (
            {"type": "integer", "multipleOf": 500},
            ["1500", "0", "-500"],
            ["1501", "500000000000000001"],
        ),
    ],
)
def test_spellings(schema: dict[str, Any], good: list[str] | None, bad: list[str]) -> None:
    if good is None:
        with pytest.raises(Refused, match="no number is possible"):
            read(schema, "x")
        return
    pattern = spelled(schema)
    assert all(pattern.fullmatch(text) for text in good)
    assert not any(pattern.fullmatch(text) for text in bad)


def test_a_hostile_schema_costs_little() -> None:
    wide = {f"p{i}": {"type": "number", "maximum": i} for i in range(450)}
    rules = Rules()
    rules.values(read({"type": "object", "properties": wide}, "x"))
    assert sum(map(len, rules.lines)) < 1_000_000
