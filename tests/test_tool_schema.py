"""Schemas of arguments: what is understood, what is refused, and numbers spelled by patterns."""

from __future__ import annotations

from typing import Any

import pytest

from edgellm.tools.schema import Refused, read


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "boolean"}, [True, False], [0, "true", None]),
        (
            {"type": "integer"},
            [0, -(2**53), 2**53],
            [2**53 + 1, 1.0, True, "1", None, float("inf")],
        ),
        ({"type": "integer", "minimum": 0.5, "maximum": 2.5}, [1, 2], [0, 3]),
        ({"type": "integer", "multipleOf": 2.5, "maximum": 9, "minimum": 0}, [0, 5], [1, 2, 10]),
        ({"type": "number"}, [0, 1.5, -1e14], [1e15, float("nan"), float("inf"), False]),
        ({"type": "number", "minimum": 0.1, "maximum": 0.3}, [0.1, 0.3, 0.123], [0.0999, 0.31]),
        ({"type": "number", "multipleOf": 0.1, "minimum": 0, "maximum": 1}, [0.3, 1], [0.35]),
        ({"type": "string", "maxLength": 2}, ["", "äü"], ["abc", 1]),
        ({"type": "string"}, ["x" * 200], ["x" * 201]),
        ({"type": "string", "minLength": 300}, ["x" * 300], ["x" * 299, "x" * 301]),
        ({"type": "string", "enum": ["a", "b", 3], "const": "b"}, ["b"], ["a", 3]),
        ({"enum": [1, True, None, "x"]}, [1, True, None, "x"], [1.0, False, 0]),
        ({"type": "integer", "enum": [1, 5, 9], "maximum": 5}, [1, 5], [9, 2]),
        ({"const": 2.5}, [2.5], [2]),
        (
            {"type": "array", "items": {"type": "boolean"}},
            [[], [True] * 16],
            [[1], [True] * 17, {}],
        ),
        ({"type": "array", "items": {"const": 1}, "minItems": 1}, [[1]], [[]]),
        ({"type": "object"}, [{}], [{"a": 1}, [], None]),
        (
            {
                "type": "object",
                "properties": {"a": {"const": 1}, "b": {"const": 2}},
                "required": ["a"],
            },
            [{"a": 1}, {"b": 2, "a": 1}],
            [{}, {"b": 2}, {"a": 2}, {"a": 1, "c": 1}],
        ),
    ],
)
def test_what_is_valid(schema: dict[str, Any], good: list[Any], bad: list[Any]) -> None:
    checked = read(schema, "x")
    for value in good:
        assert checked.mismatch(value) is None
    for value in bad:
        assert checked.mismatch(value)


def nested(depth: int) -> dict[str, Any]:
    return {"type": "array", "items": nested(depth - 1)} if depth > 1 else {"type": "boolean"}


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ([], "must be a JSON Schema"),
        ({}, "needs a type"),
        ({"type": "null"}, "known are object, array"),
        ({"type": ["string"]}, "the type is list"),
        ({"type": "string", "pattern": "a"}, "'pattern' isn't supported for string"),
        ({"type": "string", "minimum": 1}, "'minimum' isn't supported for string"),
        ({"type": "string", "maxLength": -1}, "minLength and maxLength"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "minLength and maxLength"),
        ({"type": "string", "maxLength": 10**9}, "minLength and maxLength"),
        ({"type": "string", "maxLength": True}, "minLength and maxLength"),
        ({"type": "string", "minLength": "2"}, "minLength and maxLength"),
        ({"type": "string", "description": 1}, "must be texts"),
        ({"type": "string", "unit": "\ud800"}, "must be texts"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no number is possible"),
        ({"type": "integer", "minimum": 0.1, "maximum": 0.9}, "no number is possible"),
        ({"type": "integer", "minimum": "0"}, "minimum is '0'"),
        ({"type": "integer", "maximum": float("inf")}, "maximum is inf"),
        ({"type": "number", "maximum": float("nan")}, "maximum is nan"),
        ({"type": "number", "minimum": 1e-320}, "too small"),
        ({"type": "number", "minimum": 10**400}, "minimum is 1000"),
        ({"type": "number", "minimum": True}, "minimum is True"),
        ({"type": "number", "multipleOf": 0}, "more than 0"),
        ({"type": "number", "multipleOf": -1}, "more than 0"),
        ({"type": "number", "multipleOf": 1e-13}, "more than 12 decimals"),
        ({"type": "integer", "multipleOf": 3}, "at most 500"),
        ({"type": "array"}, "x, items must be a JSON Schema"),
        (
            {"type": "array", "items": {"type": "boolean"}, "maxItems": 10**6},
            "minItems and maxItems",
        ),
        ({"type": "array", "items": {"type": "boolean"}, "uniqueItems": True}, "'uniqueItems'"),
        ({"type": "object", "additionalProperties": True}, "can only be false"),
        ({"type": "object", "properties": {"a b": {"type": "boolean"}}}, "name is 'a b'"),
        ({"type": "object", "properties": {1: {"type": "boolean"}}}, "name is 1"),
        ({"type": "object", "properties": []}, "must be an object"),
        ({"type": "object", "required": ["a"]}, "list of the properties' names"),
        ({"type": "object", "required": "a"}, "list of the properties' names"),
        ({"type": "object", "properties": {"a": {"type": "x"}}}, "x, a: the type is 'x'"),
        ({"enum": []}, "no value is possible"),
        ({"enum": "ab"}, "must be of texts"),
        ({"enum": [[1]]}, "must be of texts"),
        ({"enum": ["\ud800"]}, "must be of texts"),
        ({"enum": [float("nan")]}, "must be of texts"),
        ({"enum": [1], "const": 2}, "no value is possible"),
        ({"type": "string", "enum": [1]}, "no value is possible"),
        ({"anyOf": [{"type": "string"}]}, "needs a type"),
        ({"$ref": "#", "type": "string"}, r"'\$ref' isn't supported"),
        (nested(9), "nested more than 8 deep"),
    ],
)
def test_what_cannot_be_used_is_named(schema: Any, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        read(schema, "x")


def test_schemas_of_the_greatest_depth_are_understood() -> None:
    read(nested(8), "x")


def test_a_signature_tells_ranges_units_and_choices() -> None:
    schema = {
        "type": "object",
        "properties": {
            "speed": {"type": "integer", "minimum": 0, "maximum": 100, "unit": "%"},
            "mode": {"enum": ["auto", "off"]},
            "steps": {
                "type": "array",
                "items": {"type": "number", "multipleOf": 0.5, "minimum": 0},
            },
            "note": {"type": "string", "description": "what\nfor"},
        },
        "required": ["speed"],
    }
    assert read(schema, "x").fields() == (
        'speed: integer 0..100 (%), mode?: "auto"|"off", '
        "steps?: list of number 0..999999999999999 in steps of 0.5, note?: string (what for)"
    )
