"""Meter: what one rendering of a chat template has cost so far, and what it may not."""

from __future__ import annotations

import re
import string
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from jinja2.runtime import LoopContext

from edgellm.errors import TemplateError

STEP_LIMIT = 250_000
STEPS_PER_ITEM = 100
"""For each message, field and element that the caller passed in."""
VALUE_LIMIT = 256 * 1024
"""Characters of any one value, and of the output, beyond four times what the caller passed in."""
TURNOVER = 64
"""How many times the limit of one value all of them together may be."""
ELEMENT = 16
"""What an element of a list or mapping counts for, in characters."""
DEADLINE_S = 2.0
DEADLINE_PER_ITEM_S = 0.001

_FORMAT_LIMIT = 4096
_INTEGER_BITS = 8192
_SEARCH_LIMIT = 50_000_000
"""Length times argument's length for methods that take quadratic time at worst."""
_PRINTF_WIDTH = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(?:\d{4,}|\*|\d*\.(?:\d{4,}|\*))")
_WIDENING = frozenset({"center", "ljust", "rjust", "zfill"})
_SEARCHING = frozenset({"lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"})
_CONTAINERS: Any = (
    *(list, tuple, dict, set, frozenset),
    *(type({}.keys()), type({}.values()), type({}.items())),
)
_MEASURED = (str, *_CONTAINERS)


class Meter:
    """What one rendering has used up."""

    def __init__(self, variables: Mapping[str, Any], now: datetime) -> None:
        """The limits grow with `variables`, which the caller passes in: they are trusted."""
        self.now = now
        given, count = _extent(variables)
        self.limit = VALUE_LIMIT + 4 * given
        self.steps = STEP_LIMIT + STEPS_PER_ITEM * count
        self.characters = TURNOVER * self.limit
        self.seconds = DEADLINE_S + DEADLINE_PER_ITEM_S * count
        self.deadline = time.monotonic() + self.seconds

    def step(self, count: int = 1) -> None:
        """Count steps; raises TemplateError when there are too many or the time is up."""
        self.steps -= count
        if self.steps < 0:
            raise TemplateError("chat template: it takes too many steps")
        if time.monotonic() > self.deadline:
            raise TemplateError(f"chat template: it takes longer than {self.seconds:.3g} s")

    def room(self, size: int) -> None:
        """Refuse a value of `size` characters that is about to be made."""
        if size > self.limit:
            raise TemplateError(f"chat template: it makes a value beyond {self.limit} characters")

    def size(self, value: Any) -> int:
        """Characters of a value written out, about; refuses one that is too large.

        Each value within a nested one is a step.
        """
        if isinstance(value, str):
            self.room(len(value))
            return len(value)
        if not isinstance(value, _CONTAINERS):
            return 0
        total, visited = 0, 0
        rest: list[Any] = [value]
        while rest:
            item = rest.pop()
            visited += 1
            if isinstance(item, str | bytes):
                total += len(item)
            elif isinstance(item, _CONTAINERS):
                total += ELEMENT * len(item)
                self.room(total)
                rest.extend(item)
                if isinstance(item, dict):
                    rest.extend(item.values())
            self.room(total)
        self.step(visited)
        return total

    def made(self, value: Any) -> Any:
        """Charge for a value that the template made; a lazy one is charged as it is consumed."""
        if isinstance(value, _MEASURED):
            self.characters -= self.size(value)
            if self.characters < 0:
                raise TemplateError("chat template: its values together are too large")
        elif isinstance(value, Iterator) and not isinstance(value, LoopContext):
            return self.consumed(value)
        return value

    def compared(self, value: Any) -> Any:
        """An operand of a comparison, whose time depends on its size."""
        self.step(1 + (self.size(value) >> 10))
        return value

    def consumed(self, values: Iterable[Any]) -> Iterator[Any]:
        """A lazy value, bounded as a list of the same items would be."""
        total = 0
        for value in values:
            self.step()
            total += ELEMENT + self.size(value)
            self.room(total)
            yield self.made(value)

    def joined(self, pieces: Iterable[str]) -> str:
        """Pieces of text in one, refused as soon as they are too many."""
        parts, total = [], 0
        for piece in pieces:
            total += len(piece)
            self.room(total)
            parts.append(piece)
        text: str = self.made("".join(parts))
        return text

    def turns(self, values: Iterable[Any]) -> Iterator[Any]:
        """The turns of a loop."""
        for value in values:
            self.step()
            yield value

    def format(self, template: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Judge `str.format`, which could pad or repeat beyond measure."""
        fields = 0
        for _, field, spec, _ in string.Formatter().parse(self._short(template)):
            fields += field is not None
            # An attribute's size isn't known from its object's; a nested width isn't known at all.
            if re.search(r"[.\[]", field or "") or re.search(r"\{|\d{4}", spec or ""):
                raise TemplateError(f"chat template: the format {template[:40]!r} isn't allowed")
        self.room(fields * (self.size(args) + self.size(kwargs)))

    def printf(self, template: str, values: Any) -> None:
        """Judge the operator `%`, which could do the same."""
        if match := _PRINTF_WIDTH.search(self._short(template)):
            raise TemplateError(f"chat template: the format {match[0][:40]!r} isn't allowed")
        self.room(template.count("%") * self.size(values))

    def replace(self, text: str, old: object, new: object) -> None:
        """Judge `str.replace` by the length of its result."""
        if isinstance(old, str) and isinstance(new, str):
            count = text.count(old) if old else len(text) + 1
            self.room(len(text) + count * len(new))

    def search(self, text: str, sought: object) -> None:
        """Judge a method of quadratic time."""
        if isinstance(sought, str) and len(text) * len(sought) > _SEARCH_LIMIT:
            raise TemplateError("chat template: it searches for a text that is too long")

    def join(self, separator: str, items: Sequence[Any]) -> None:
        self.room(self.size(items) + len(separator) * len(items))

    def method(
        self, text: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        """Judge a text's method by its arguments; returns them, a lazy one made a list."""
        if name in _WIDENING:
            self.room(max((width for width in args if isinstance(width, int)), default=0))
        elif name == "replace" and len(args) >= 2:
            self.replace(text, args[0], args[1])
        elif name == "join" and args:
            items = [*args[0]]
            self.join(text, items)
            return (items, *args[1:])
        elif name in _SEARCHING:
            for sought in (*args, *kwargs.values()):
                self.search(text, sought)
        return args

    def product(self, operator: str, left: Any, right: Any) -> None:
        """Judge the operators `*` and `**`."""
        if isinstance(left, int) and isinstance(right, int):
            bits, other = left.bit_length(), right.bit_length()
            if (bits * right if operator == "**" else bits + other) > _INTEGER_BITS:
                raise TemplateError("chat template: it makes a number that is too large")
        elif operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(times, int) and isinstance(value, str | list | tuple | bytes):
                    self.room(times * max(len(value), 1))

    @staticmethod
    def _short(template: str) -> str:
        if len(template) > _FORMAT_LIMIT:
            raise TemplateError("chat template: a format text is too long")
        return template


METER: ContextVar[Meter] = ContextVar("meter")
"""The rendering under way in this thread or task."""


def _extent(value: object) -> tuple[int, int]:
    """Characters of a value, and how many values there are within it."""
    total, count, rest = 0, 0, [value]
    while rest:
        item = rest.pop()
        count += 1
        total += len(item) if isinstance(item, str) else ELEMENT
        if isinstance(item, Mapping):
            rest.extend(item.values())
        elif isinstance(item, list | tuple):
            rest.extend(item)
    return total, count
