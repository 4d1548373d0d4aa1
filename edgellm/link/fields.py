"""What the fields of messages may hold: each type is annotated with its check."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgpack

MAX_QUESTION = 16 * 1024
"""Bytes of a question."""
MAX_TEXT = 32 * 1024
"""Bytes of any other text."""
MAX_NAME = 64
MAX_TOOLS = 64
MAX_RESULT = 4 * 1024
"""Bytes of a tool's result, as msgpack."""
MAX_DEPTH = 16
MAX_ELEMENTS = 4096
"""Of one message, counted through all of its arrays and maps."""
MAX_ITEMS = 1024
"""Of one array or map. msgpack reserves room for as many before it reads them."""

MIN_MTU, MAX_MTU = 36, 1028

Check = Callable[[Any], None]
"""Raises ValueError, saying what is allowed, for a value that isn't."""


def _number(least: int, most: int) -> Check:
    def check(value: Any) -> None:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")

    return check


def text_of(most: int, *allowed: str) -> Check:
    """Text of at most so many bytes, one of `allowed` if they are given."""

    def check(value: Any) -> None:
        if type(value) is not str or len(value.encode()) > most:
            raise ValueError(f"must be text of at most {most} bytes")
        if allowed and value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")

    return check


def _binary(*sizes: int) -> Check:
    def check(value: Any) -> None:
        if type(value) is not bytes or len(value) not in sizes:
            raise ValueError(f"must be {' or '.join(map(str, sizes))} bytes")

    return check


def _logical(value: Any) -> None:
    if type(value) is not bool:
        raise ValueError("must be true or false")


def _maybe(check: Check) -> Check:
    def checked(value: Any) -> None:
        if value is not None:
            check(value)

    return checked


def _tools(value: Any) -> None:
    _count(value, MAX_DEPTH + 2)
    if type(value) is not list or len(value) > MAX_TOOLS:
        raise ValueError(f"must be a list of at most {MAX_TOOLS}")


def _tree(*kinds: type, most: int | None = None) -> Check:
    """A value as JSON has them, of one of `kinds` if they are given, of `most` bytes packed."""

    def check(value: Any) -> None:
        if kinds and type(value) not in kinds:
            raise ValueError(f"must be {' or '.join(kind.__name__ for kind in kinds)}")
        _count(value, MAX_DEPTH)
        if most is not None and len(msgpack.packb(value)) > most:
            raise ValueError(f"must be of at most {most} bytes")

    return check


def _count(value: Any, depth: int) -> int:
    """How many elements `value` has in all. Raises ValueError if JSON has no such value."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must hold finite numbers")
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise ValueError("must hold whole numbers of at most 64 bits")
    if value is None or isinstance(value, bool | int | float | str):
        return 1
    if depth == 0:
        raise ValueError(f"must be nested at most {MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        if not all(type(key) is str for key in value):
            raise ValueError("must have text for keys")
        below = list(value.values())
    elif isinstance(value, list | tuple):
        below = list(value)
    else:
        raise ValueError(f"must hold what JSON has, not {type(value).__name__}")
    total = 1
    for element in below:
        total += _count(element, depth - 1)
        if total > MAX_ELEMENTS:
            raise ValueError(f"must hold at most {MAX_ELEMENTS} elements")
    return total


U8 = Annotated[int, _number(0, 2**8 - 1)]
U16 = Annotated[int, _number(0, 2**16 - 1)]
U32 = Annotated[int, _number(0, 2**32 - 1)]
Number = Annotated[int, _number(1, 2**32 - 1)]
"""Of a question or a call."""
Mtu = Annotated[int, _number(MIN_MTU, MAX_MTU)]
"""The largest body, header and payload, in bytes."""
Name = Annotated[str, text_of(MAX_NAME)]
Words = Annotated[str, text_of(MAX_TEXT)]
Question = Annotated[str | None, _maybe(text_of(MAX_QUESTION))]
Token = Annotated[bytes, _binary(8)]
MaybeToken = Annotated[bytes, _binary(0, 8)]
MaybeMac = Annotated[bytes, _binary(0, 16)]
Nonce16 = Annotated[bytes, _binary(16)]
Flag = Annotated[bool, _logical]
Map = Annotated[Mapping[str, Any], _tree(dict)]
Declared = Annotated[list[Any], _tools]
Value = Annotated[Any, _tree(most=MAX_RESULT)]
