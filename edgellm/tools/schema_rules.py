"""Grammar rules for the values of schemas, in llguidance's dialect of Lark.

Values are spelled as `json.dumps` does it, with properties in the order of their declaration.
"""

from __future__ import annotations

import json

from edgellm.tools import number_pattern
from edgellm.tools.schema import Schema, spelled

_CHARACTER = r'([^"\\\x00-\x1F\x7F]|\\["\\\/bfnrt])'
"""One of a JSON string, as a regular expression."""


def literal(text: str) -> str:
    """A text as Lark writes it."""
    return json.dumps(text, ensure_ascii=False)


class Rules:
    """Collects the rules that spell the values of schemas."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._patterns: dict[str, str] = {}

    def values(self, schema: Schema) -> str:
        """The name of a rule for all values of a schema."""
        if schema.choices is not None:
            return self._rule(" | ".join(literal(spelled(one)) for one in schema.choices))
        match schema.type:
            case "boolean":
                return self._rule('"true" | "false"')
            case "string":
                return self._pattern(f'"{_CHARACTER}{{{schema.least},{schema.most}}}"')
            case "integer" | "number":
                whole = schema.type == "integer"
                return self._pattern(
                    number_pattern.pattern(whole, schema.low, schema.high, schema.step)
                )
            case "array":
                return self._list(schema)
        return self._object(schema)

    def _rule(self, body: str) -> str:
        name = f"r{len(self.lines)}"
        self.lines.append(f"{name}: {body}")
        return name

    def _pattern(self, pattern: str) -> str:
        if pattern not in self._patterns:
            name = self._patterns[pattern] = f"T{len(self.lines)}"
            self.lines.append(f"{name}: /{pattern}/")
        return self._patterns[pattern]

    def _list(self, schema: Schema) -> str:
        assert schema.items is not None
        if not schema.most:
            return self._rule('"[]"')
        item = self.values(schema.items)
        least, most = max(schema.least - 1, 0), schema.most - 1
        more = f' (", " {item}){{{least},{most}}}' if most else ""
        full = f'"[" {item}{more} "]"'
        return self._rule(full if schema.least else f'"[]" | {full}')

    def _object(self, schema: Schema) -> str:
        """From the last property to the first: the rules of what may follow another property, and
        of what may come first. Properties come in the order in which they are declared."""
        after, first = "", '"}"'
        if schema.properties:
            after = self._rule('"}"')
            first = after
        for name, inner in reversed(list(schema.properties.items())):
            own = f"{literal(spelled(name) + ': ')} {self.values(inner)} {after}"
            optional = name not in schema.required
            first = self._rule(own + (f" | {first}" if optional else ""))
            after = self._rule(f'", " {own}' + (f" | {after}" if optional else ""))
        return self._rule(f'"{{" {first}')
