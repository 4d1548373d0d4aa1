"""Dataclasses as plain data (maps, lists, numbers, texts), and back with every value checked."""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from edgellm.errors import FormatError

LARGEST = 1 << 53
"""Of a whole number, either sign."""

T = TypeVar("T")


def plain(value: object) -> Any:
    """What msgpack can write of a dataclass, a map, a tuple, a set or a scalar."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return value


def read(kind: type[T], value: object, file: object, where: str) -> T:
    """A dataclass of type `kind` from what `plain` made of one; fields with defaults may be absent.

    Raises FormatError, naming `file` and the place below `where`, for a wrong type, an unknown or
    a missing field, or a number that isn't finite.
    """
    found: T = _read(kind, value, file, where)
    return found


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _read(kind: Any, value: Any, file: object, where: str) -> Any:
    if isinstance(kind, type) and is_dataclass(kind):
        return _dataclass(kind, value, file, where)
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        (kind,) = (option for option in options if option is not type(None))
        return _read(kind, value, file, where)
    if origin is Literal:
        if type(value) is str and value in options:
            return value
        raise FormatError(file, where, value, f"one of {', '.join(map(repr, options))} is needed")
    if origin in (tuple, frozenset):
        if type(value) is not list:
            raise FormatError(file, where, value, "a list is needed")
        kind = options[0]
        return origin(_read(kind, each, file, f"{where}[{i}]") for i, each in enumerate(value))
    if origin is not None:  # a map of texts
        if type(value) is not dict or not all(type(key) is str for key in value):
            raise FormatError(file, where, value, "a map is needed")
        return {key: _read(options[1], each, file, f"{where}.{key}") for key, each in value.items()}
    return _scalar(kind, value, file, where)


def _dataclass(kind: type, value: Any, file: object, where: str) -> Any:
    if type(value) is not dict:
        raise FormatError(file, where, value, "a map is needed")
    hints = _hints(kind)
    if unknown := [key for key in value if key not in hints]:
        raise FormatError(file, where, unknown[0], "there is no such field")
    given = {}
    for field in fields(kind):
        if field.name in value:
            place = f"{where}.{field.name}" if where else field.name
            given[field.name] = _read(hints[field.name], value[field.name], file, place)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise FormatError(file, f"{where}.{field.name}", "missing", "it is needed")
    return kind(**given)


def _scalar(kind: Any, value: Any, file: object, where: str) -> Any:
    found = type(value)  # exactly: True is no whole number
    if kind is float and found is int and abs(value) <= LARGEST:
        return float(value)
    if kind is not found:
        raise FormatError(file, where, value, f"a value of type {kind.__name__} is needed")
    if kind is int and abs(value) > LARGEST:
        raise FormatError(file, where, value, f"at most {LARGEST} is allowed")
    if kind is float and not math.isfinite(value):
        raise FormatError(file, where, value, "it must be finite")
    return value
