"""Dataclasses as plain data (maps, lists, numbers, texts), and back with every value checked."""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from edgellm.errors import FormatError

LARGEST = 1 << 53
"""Of a whole number, either sign."""

T = TypeVar("T")
Reader = Callable[[Any, object, str], Any]
"""Checks a value of a file, found at a place, and returns what it stands for."""


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
    """A dataclass of type `kind` from what `plain` made of one; fields with defaults may be absent,
    and those of type object may be anything.

    Raises FormatError, naming `file` and the place below `where`, for a wrong type, an unknown or
    a missing field, or a number that isn't finite.
    """
    reader: Reader = _reader(kind)  # type: ignore[arg-type]  # types are hashable
    found: T = reader(value, file, where)
    return found


@functools.cache
def _reader(kind: Any) -> Reader:
    """What reads values of a type: types are looked into once, not for every value."""
    if isinstance(kind, type) and is_dataclass(kind):
        return _dataclass(kind)
    if kind is object:
        return lambda value, file, where: value
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (inner,) = (option for option in options if option is not type(None))
        return _optional(_reader(inner))
    if origin is Literal:
        return functools.partial(_word, options)
    if origin in (tuple, frozenset, Sequence):
        return _list(frozenset if origin is frozenset else tuple, _reader(options[0]))
    if origin is not None:
        return _map(_reader(options[1]))
    return functools.partial(_number, kind) if kind in (int, float) else _scalar(kind)


def _dataclass(kind: type) -> Reader:
    hints = get_type_hints(kind)
    parts = [
        (
            field.name,
            _reader(hints[field.name]),
            field.default is MISSING and field.default_factory is MISSING,
        )
        for field in fields(kind)
    ]
    names = {name for name, _, _ in parts}

    def read(value: Any, file: object, where: str) -> Any:
        if type(value) is not dict:
            raise FormatError(file, where, value, "a map is needed")
        if not value.keys() <= names:
            unknown = next(key for key in value if key not in names)
            raise FormatError(file, where, unknown, "there is no such field")
        given = {}
        for name, part, needed in parts:
            if name in value:
                given[name] = part(value[name], file, f"{where}.{name}" if where else name)
            elif needed:
                raise FormatError(file, f"{where}.{name}", "missing", "it is needed")
        return kind(**given)

    return read


def _optional(inner: Reader) -> Reader:
    return lambda value, file, where: None if value is None else inner(value, file, where)


def _list(kind: type, inner: Reader) -> Reader:
    def read(value: Any, file: object, where: str) -> Any:
        if type(value) is not list:
            raise FormatError(file, where, value, "a list is needed")
        return kind(inner(each, file, f"{where}[{i}]") for i, each in enumerate(value))

    return read


def _map(inner: Reader) -> Reader:
    """Of texts."""

    def read(value: Any, file: object, where: str) -> Any:
        if type(value) is not dict or not all(type(key) is str for key in value):
            raise FormatError(file, where, value, "a map is needed")
        return {key: inner(each, file, f"{where}.{key}") for key, each in value.items()}

    return read


def _word(options: tuple[str, ...], value: Any, file: object, where: str) -> Any:
    if type(value) is str and value in options:
        return value
    raise FormatError(file, where, value, f"one of {', '.join(map(repr, options))} is needed")


def _scalar(kind: type) -> Reader:
    def read(value: Any, file: object, where: str) -> Any:
        if type(value) is not kind:  # exactly: True is no whole number
            raise _mistyped(kind, value, file, where)
        return value

    return read


def _number(kind: type, value: Any, file: object, where: str) -> Any:
    found = type(value)
    if kind is float and found is int and abs(value) <= LARGEST:
        return float(value)
    if kind is not found:
        raise _mistyped(kind, value, file, where)
    if kind is int and abs(value) > LARGEST:
        raise FormatError(file, where, value, f"at most {LARGEST} is allowed")
    if kind is float and not math.isfinite(value):
        raise FormatError(file, where, value, "it must be finite")
    return value


def _mistyped(kind: type, value: object, file: object, where: str) -> FormatError:
    return FormatError(file, where, value, f"a value of type {kind.__name__} is needed")
