"""The JSON Schema of a tool's arguments: what of it is understood, and checks of values.

Only what makes every value finite is understood; what else a schema says is refused by name, never
ignored.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from fractions import Fraction

from edgellm.tools import number_pattern

MAX_DEPTH = 8
"""Of schemas in each other."""
MAX_LENGTH = 200
"""Characters of a string whose schema sets no `maxLength`."""
MAX_ITEMS = 16
"""Of an array whose schema sets no `maxItems`."""
MOST_LENGTH = 4096
MOST_ITEMS = 256
"""What schemas may set at most."""
WHOLE = 2**53
"""Whole numbers go from its negative to itself: those that every reader of JSON has."""
LARGEST = 10**15 - 1
"""The same for numbers."""

_PROPERTY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_SHOWN = frozenset({"title", "description", "unit", "default"})
"""Keywords for the model's eyes only."""
_KEYWORDS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "enum", "const"},
    "integer": {"minimum", "maximum", "multipleOf", "enum", "const"},
    "number": {"minimum", "maximum", "multipleOf", "enum", "const"},
    "boolean": {"enum", "const"},
    None: {"enum", "const"},
}
"""What a schema of each type may say, besides its type and what is only shown."""


class Refused(Exception):
    """What is wrong with a schema, and where."""


@dataclass(frozen=True)
class Schema:
    """A schema that has been checked."""

    type: str | None
    """None: any of `choices`."""
    shown: str = ""
    """Its unit or description."""
    choices: tuple[object, ...] | None = None
    """What `enum` and `const` leave of the values; None: all."""
    least: int = 0
    most: int = 0
    """Characters of a string, items of an array."""
    low: Decimal = Decimal(0)
    high: Decimal = Decimal(0)
    step: Decimal | None = None
    """Bounds of a number, and what it is a multiple of."""
    items: Schema | None = None
    properties: Mapping[str, Schema] = field(default_factory=dict)
    required: frozenset[str] = frozenset()

    def mismatch(self, value: object, where: str = "it") -> str | None:
        """Why a value, made of JSON's types, isn't valid; None if it is."""
        if self.choices is not None:
            known = any(type(one) is type(value) and one == value for one in self.choices)
            return None if known else f"{where} is none of the choices"
        match self.type:
            case "boolean":
                return None if isinstance(value, bool) else f"{where} isn't true or false"
            case "string":
                if not isinstance(value, str):
                    return f"{where} isn't a text"
                fits = self.least <= len(value) <= self.most
                return None if fits else f"{where} is too long or too short"
            case "integer" | "number":
                return self._wrong_number(value, where)
            case "array":
                assert self.items is not None
                if not isinstance(value, list) or not self.least <= len(value) <= self.most:
                    return f"{where} isn't a list, or is too long or too short"
                inner = (self.items.mismatch(one, f"{where}[{i}]") for i, one in enumerate(value))
                return next(filter(None, inner), None)
        if not isinstance(value, Mapping):
            return f"{where} isn't an object"
        if missing := self.required - value.keys():
            return f"{where} lacks {min(missing)}"
        if unknown := value.keys() - self.properties.keys():
            return f"{where} has {min(map(str, unknown))}, which isn't declared"
        inner = (self.properties[key].mismatch(one, f"{where}.{key}") for key, one in value.items())
        return next(filter(None, inner), None)

    def _wrong_number(self, value: object, where: str) -> str | None:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            return f"{where} isn't a number"
        if self.type == "integer" and not isinstance(value, int):
            return f"{where} isn't a whole number"
        number = Decimal(repr(value))
        if not self.low <= number <= self.high:
            return f"{where} is out of range"
        if self.step is not None and Fraction(number) % Fraction(self.step):
            return f"{where} isn't a multiple of {self.step}"
        return None

    def signature(self) -> str:
        """The values in a few words, for a model to read."""
        if self.choices is not None:
            return "|".join(json.dumps(one, ensure_ascii=False) for one in self.choices)
        match self.type:
            case "array":
                assert self.items is not None
                words = f"list of {self.items.signature()}"
            case "object":
                words = "{" + self.fields() + "}"
            case "integer" | "number":
                words = str(self.type)
                limit = WHOLE if self.type == "integer" else LARGEST
                if self.low > -limit or self.high < limit:
                    words += f" {_plain(self.low)}..{_plain(self.high)}"
                if self.step is not None:
                    words += f" in steps of {_plain(self.step)}"
            case _:
                words = str(self.type)
        return f"{words} ({self.shown})" if self.shown else words

    def fields(self) -> str:
        """An object's properties in a few words; a question mark where one may be left out."""
        return ", ".join(
            f"{name}{'' if name in self.required else '?'}: {one.signature()}"
            for name, one in self.properties.items()
        )


def read(schema: object, where: str, depth: int = MAX_DEPTH) -> Schema:
    """Check a schema from outside. Raises Refused, naming the place, for what can't be used."""
    if not isinstance(schema, Mapping):
        raise Refused(f"{where} must be a JSON Schema, an object")
    if not depth:
        raise Refused(f"{where}: schemas are nested more than {MAX_DEPTH} deep")
    kind = schema.get("type")
    if not isinstance(kind, str | None) or kind not in _KEYWORDS:
        known = ", ".join(filter(None, _KEYWORDS))
        raise Refused(f"{where}: the type is {_short(kind)}; known are {known}")
    if kind is None and not schema.keys() & {"enum", "const"}:
        raise Refused(f"{where}: it needs a type")
    for key in schema:
        if key not in _KEYWORDS[kind] and key not in _SHOWN and key != "type":
            raise Refused(f"{where}: the keyword {_short(key)} isn't supported for {kind}")
    shown = schema.get("unit") or schema.get("description") or ""
    if not isinstance(shown, str) or not is_text(shown):
        raise Refused(f"{where}: unit and description must be texts")
    values = _values(kind, schema, where, depth, " ".join(shown.split()))
    choices = _choices(values, schema, where)
    return values if choices is None else Schema(kind, values.shown, choices)


def _values(
    kind: str | None, schema: Mapping[str, object], where: str, depth: int, shown: str
) -> Schema:
    """The schema without `enum` and `const`."""
    match kind:
        case "string":
            least, most = _lengths(schema, where, "Length", MAX_LENGTH, MOST_LENGTH)
            return Schema(kind, shown, least=least, most=most)
        case "array":
            least, most = _lengths(schema, where, "Items", MAX_ITEMS, MOST_ITEMS)
            items = read(schema.get("items"), f"{where}, items", depth - 1)
            return Schema(kind, shown, least=least, most=most, items=items)
        case "integer" | "number":
            limit = WHOLE if kind == "integer" else LARGEST
            low = _number(schema, where, "minimum", -limit)
            high = _number(schema, where, "maximum", limit)
            step = _number(schema, where, "multipleOf", 0) or None
            if "multipleOf" in schema and (step is None or step < 0):
                raise Refused(f"{where}: multipleOf must be more than 0")
            if kind == "integer":
                low, high = low.to_integral(ROUND_CEILING), high.to_integral(ROUND_FLOOR)
            found = Schema(
                kind,
                shown,
                low=max(low, Decimal(-limit)),
                high=min(high, Decimal(limit)),
                step=step,
            )
            if not {"enum", "const"} & schema.keys():
                try:  # is refused here, not in the middle of a call
                    number_pattern.pattern(kind == "integer", found.low, found.high, step)
                except ValueError as error:
                    raise Refused(f"{where}: {error}") from None
            return found
        case "object":
            return _object(schema, where, depth, shown)
    return Schema(kind, shown)


def _object(schema: Mapping[str, object], where: str, depth: int, shown: str) -> Schema:
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, Mapping):
        raise Refused(f"{where}: properties must be an object")
    if schema.get("additionalProperties", False) is not False:
        raise Refused(f"{where}: additionalProperties can only be false")
    for name in properties:
        if not isinstance(name, str) or not _PROPERTY.fullmatch(name):
            raise Refused(
                f"{where}: a property's name is {_short(name)}; it must be of letters, digits and "
                f"_.-, 64 at most"
            )
    if not isinstance(required, list | tuple) or any(
        not isinstance(name, str) or name not in properties for name in required
    ):
        raise Refused(f"{where}: required must be a list of the properties' names")
    inner = {name: read(one, f"{where}, {name}", depth - 1) for name, one in properties.items()}
    return Schema("object", shown, properties=inner, required=frozenset(required))


def _lengths(
    schema: Mapping[str, object], where: str, of: str, usual: int, largest: int
) -> tuple[int, int]:
    least, most = schema.get(f"min{of}", 0), schema.get(f"max{of}")
    if most is None:
        most = max(usual, least) if isinstance(least, int) else usual
    if type(least) is not int or type(most) is not int or not 0 <= least <= most <= largest:
        raise Refused(f"{where}: min{of} and max{of} must be whole numbers from 0 to {largest}")
    return least, most


def _number(schema: Mapping[str, object], where: str, key: str, usual: int) -> Decimal:
    value = schema.get(key, usual)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e300:
        raise Refused(f"{where}: {key} is {_short(value)}; it must be a number")
    if value and abs(value) < 1e-300:
        raise Refused(f"{where}: {key} is {_short(value)}; it is too small")
    return Decimal(repr(value))


def _choices(values: Schema, schema: Mapping[str, object], where: str) -> tuple[object, ...] | None:
    """What `enum` and `const` leave of the values, None where there are neither."""
    found: list[object] | None = None
    for key in ("enum", "const"):
        if key not in schema:
            continue
        listed = schema[key] if key == "enum" else [schema[key]]
        if not isinstance(listed, list | tuple) or not all(map(_is_simple, listed)):
            raise Refused(f"{where}: {key} must be of texts, numbers, true, false or null")
        now = [one for one in listed if found is None or spelled(one) in map(spelled, found)]
        found = list({spelled(one): one for one in now}.values())
    if found is None:
        return None
    if values.type is not None:
        found = [one for one in found if values.mismatch(one) is None]
    if not found:
        raise Refused(f"{where}: no value is possible")
    return tuple(found)


def _is_simple(value: object) -> bool:
    if isinstance(value, str):
        return is_text(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return abs(value) <= 1e300
    return isinstance(value, bool | None)


def is_text(value: str) -> bool:
    """Whether it can be written as UTF-8: it has no halves of characters."""
    return re.search("[\ud800-\udfff]", value) is None


def spelled(value: object) -> str:
    """A value as models are to write it."""
    return json.dumps(value, ensure_ascii=False)


def _plain(number: Decimal) -> str:
    return f"{number.normalize():f}"


def _short(value: object) -> str:
    return repr(value)[:80] if isinstance(value, str | int | float | None) else type(value).__name__
