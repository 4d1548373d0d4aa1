"""Random tools, as devices might declare them, and an independent judge of the calls."""

from __future__ import annotations

import math
from decimal import Decimal
from random import Random
from typing import Any

import jsonschema

from edgellm.tools.tool import Tool

WORDS = ["on", "off", "left/right", 'with "quotes"', "back\\slash", "größer", "温度", "", "🙂"]


def tool(random: Random) -> Tool:
    depth = random.randint(1, 3)
    danger = random.randrange(3)
    return Tool(f"do_{random.randrange(10**6)}", "Does it.", _object(random, depth), danger)


def _object(random: Random, depth: int) -> dict[str, Any]:
    names = random.sample("abcdefghij", random.choice([0, 1, 2, 3, 6]))
    properties = {name * random.randint(1, 3): _schema(random, depth) for name in names}
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    schema["required"] = [name for name in properties if random.random() < 0.6]
    if random.random() < 0.5:
        schema["additionalProperties"] = False
    return schema


def _schema(random: Random, depth: int) -> dict[str, Any]:
    kinds = ["string", "integer", "number", "boolean", "enum", "const"]
    kind = random.choice(kinds + ["object", "array"] * (depth > 1))
    match kind:
        case "object":
            return _object(random, depth - 1)
        case "array":
            least = random.randint(0, 3)
            array = {"type": "array", "items": _schema(random, depth - 1), "minItems": least}
            return array | ({"maxItems": least + random.randint(0, 3)} if least % 2 else {})
        case "string":
            least = random.randint(0, 5)
            limits = {"minLength": least, "maxLength": least + random.randint(0, 20)}
            return {"type": "string", **random.choice([limits, {}, {"maxLength": 3}])}
        case "integer" | "number":
            return _number(random, kind)
        case "enum":
            values = random.sample([*WORDS, 1, -2.5, True, None], random.randint(1, 5))
            return {"enum": values, "unit": "m/s"}
        case "const":
            return {"const": random.choice(WORDS)}
    return {"type": "boolean", "description": "Whether"}


def _number(random: Random, kind: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": kind}
    places = 0 if kind == "integer" else random.randrange(4)
    low = round(random.uniform(-1, 1) * 10 ** random.randrange(6), places)
    high = round(low + random.random() * 10 ** random.randint(1, 6) + 20, places)
    if kind == "integer":
        low, high = int(low), int(high)
    if random.random() < 0.7:
        schema["minimum"] = low
    if random.random() < 0.7:
        schema["maximum"] = max(low, high)
    if random.random() < 0.3:
        steps = [1, 2, 5, 10, 20] if kind == "integer" else [0.5, 0.1, 0.25, 2, 0.01]
        schema["multipleOf"] = random.choice(steps)
    return schema


def judge(tool: Tool, arguments: Any) -> None:
    """Raises unless the arguments are valid by the tool's schema, whatever our own code says."""
    jsonschema.validate(arguments, _without_steps(dict(tool.parameters)))
    _check(dict(tool.parameters), arguments)


def _without_steps(schema: Any) -> Any:
    """The schema as a judge sees it that counts in floats: no multiples, nothing undeclared."""
    if isinstance(schema, list):
        return [_without_steps(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: _without_steps(one) for key, one in schema.items() if key != "multipleOf"}
    return kept | ({"additionalProperties": False} if schema.get("type") == "object" else {})


def _check(schema: dict[str, Any], value: Any) -> None:
    """What the other judge doesn't: multiples, exactly, and that all is finite and writable."""
    match value:
        case dict():
            for name, inner in value.items():
                _check(schema["properties"][name], inner)
        case list():
            assert len(value) <= schema.get("maxItems", 16)
            for inner in value:
                _check(schema["items"], inner)
        case str():
            value.encode()
            assert len(value) <= schema.get("maxLength", 200)
        case int() | float() if not isinstance(value, bool):
            assert math.isfinite(value)
            assert abs(value) <= 2**53
            if "multipleOf" in schema:
                assert Decimal(repr(value)) % Decimal(repr(schema["multipleOf"])) == 0
