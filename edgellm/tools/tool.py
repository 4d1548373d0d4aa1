"""Tools: functions that a device declares, for the model to call."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgellm.errors import UsageError
from edgellm.tools import schema as tool_schema

MAX_TOOLS = 64
"""Of a session."""
MAX_SIZE = 16 * 1024
"""Characters of a session's tools, as JSON."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class Tool:
    """A function of a device. Raises UsageError, naming it, for what can't be used.

    Of JSON Schema `edgellm.tools.schema` says what is understood; all else is refused.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object"})
    """The JSON Schema of an object, as declared."""
    danger: int = 0
    """0 (harmless) to 2, as the device sees it."""
    schema: tool_schema.Schema = field(init=False, repr=False, compare=False)
    """The same as `parameters`, checked."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            rule = "it must be of letters, digits and _, 64 at most"
            raise UsageError(f"a tool's name is {str(self.name)[:80]!r}; {rule}")
        if not isinstance(self.description, str) or not tool_schema.is_text(self.description):
            raise UsageError(f"tool {self.name}: the description must be a text")
        if type(self.danger) is not int or not 0 <= self.danger <= 2:
            raise UsageError(f"tool {self.name}: danger is {self.danger!r}; it must be 0, 1 or 2")
        try:
            schema = tool_schema.read(self.parameters, "the parameters")
        except tool_schema.Refused as refused:
            raise UsageError(f"tool {self.name}: {refused}") from None
        if schema.type != "object":
            raise UsageError(f"tool {self.name}: the parameters' type must be object")
        object.__setattr__(self, "schema", schema)

    @classmethod
    def check(cls, declared: object) -> Tool:
        """A tool from outside: [name, description, parameters, danger]."""
        if not isinstance(declared, list | tuple) or len(declared) != 4:
            raise UsageError("a tool must be a list: name, description, parameters, danger")
        return cls(*declared)

    def declaration(self) -> list[Any]:
        """What `check` takes."""
        return [self.name, self.description, self.parameters, self.danger]

    def line(self) -> str:
        """The tool in one line, for a model to read."""
        described = " ".join(self.description.split())
        return f"{self.name}({self.schema.fields()})" + (f" - {described}" if described else "")


def check_all(tools: Sequence[Tool]) -> None:
    """Raise UsageError where a session can't have all these tools."""
    if len(tools) > MAX_TOOLS:
        raise UsageError(f"there are {len(tools)} tools; a session may have {MAX_TOOLS}")
    names = set()
    for tool in tools:
        if tool.name in names:
            raise UsageError(f"tool {tool.name}: there are two of that name")
        names.add(tool.name)
    size = len(json.dumps([tool.declaration() for tool in tools], ensure_ascii=False, default=str))
    if size > MAX_SIZE:
        raise UsageError(f"the tools take {size} characters as JSON; at most {MAX_SIZE}")
