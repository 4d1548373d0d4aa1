"""A toolbox: tools together with the functions that do what they say."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping

from edgellm.tools.tool import Tool, check_all

MAX_TROUBLE = 1000
"""Characters of a tool's error."""

Function = Callable[..., object]
"""Of a tool: called with its arguments by name, in a thread unless it's a coroutine function. What
it returns, made of JSON's types, is the call's result; what it raises is the call's error."""


class Toolbox:
    def __init__(self, offered: Iterable[tuple[Tool, Function]] = ()) -> None:
        """Raises UsageError for tools that can't be declared."""
        found = list(offered)
        self._functions = {tool.name: (tool, function) for tool, function in found}
        self.tools = tuple(tool for tool, _ in found)
        check_all(self.tools)

    async def call(
        self, name: str, arguments: Mapping[str, object], limit_s: float | None = None
    ) -> tuple[bool, object]:
        """Whether a call went well, and its result or what was wrong. Raises nothing."""
        try:
            async with asyncio.timeout(limit_s):
                return True, await self._result(name, dict(arguments))
        except TimeoutError as error:
            within = f" within {limit_s:g} s" if limit_s is not None else f": {error}"
            return False, f"no result{within}"
        except Exception as error:  # whatever it is, the model is told
            return False, f"{type(error).__name__}: {error}"[:MAX_TROUBLE]

    async def _result(self, name: str, arguments: dict[str, object]) -> object:
        if name not in self._functions:
            raise LookupError(f"there is no tool {name}")
        tool, function = self._functions[name]
        if wrong := tool.schema.mismatch(arguments, "the arguments"):
            raise ValueError(wrong)
        if inspect.iscoroutinefunction(function):
            return await function(**arguments)
        return await asyncio.to_thread(function, **arguments)
