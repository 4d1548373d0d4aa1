"""Keys: a model file's settings, each checked as it is read, and none of them overlooked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgellm.errors import FormatError, UnsupportedError

MAX_LAYERS = 1024
MAX_WIDTH = 1 << 20
MAX_CONTEXT = 1 << 27


class Keys:
    """Settings under `prefix`, by name without it; null stands for an absent one."""

    def __init__(self, file: str, values: Mapping[str, object], prefix: str = "") -> None:
        self.file, self.values, self.prefix = file, values, prefix
        self.seen: set[str] = set()

    def get(self, name: str) -> Any:
        self.seen.add(name)
        return self.values.get(self.prefix + name)

    def fail(self, name: str, value: object, allowed: str) -> FormatError:
        return FormatError(self.file, self.prefix + name, value, allowed)

    def unsupported(self, name: str, value: object, allowed: str) -> UnsupportedError:
        return UnsupportedError(self.file, self.prefix + name, value, allowed)

    def integer(self, name: str, default: int | None, low: int, high: int) -> int:
        """Without a default the key is required."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.fail(name, value, f"an integer from {low} to {high} is needed")
        return value

    def number(self, name: str, default: float, low: float = 0.0, high: float = 1e12) -> float:
        value = self.get(name)
        if value is None:
            return default
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not low <= value <= high:
            raise self.fail(name, value, f"a number from {low:g} to {high:g} is needed")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fail(name, value, "true or false is needed")
        return value

    def word(self, name: str, default: str) -> str:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.fail(name, value, "a string is needed")
        return value

    def per_layer(self, name: str, default: int, count: int, high: int) -> list[int]:
        """One integer for all layers, or one each."""
        value = self.get(name)
        if value is None:
            return [default] * count
        if isinstance(value, int) and not isinstance(value, bool):
            value = [value] * count
        if not isinstance(value, list | np.ndarray) or len(value) != count:
            raise self.fail(name, value, f"an integer, or one for each of {count} layers is needed")
        for each in value:
            good = isinstance(each, int | np.integer) and not isinstance(each, bool)
            if not good or not 0 <= each <= high:
                raise self.fail(name, each, f"integers from 0 to {high} are needed")
        return [int(each) for each in value]

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """`count` positive numbers; none where the key is absent."""
        value = self.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) != count:
            raise self.fail(name, value, f"a list of {count} numbers is needed")
        for each in value:
            good = isinstance(each, int | float) and not isinstance(each, bool)
            if not good or not 0 < each < 1e12:
                raise self.fail(name, each, "positive numbers are needed")
        return tuple(float(each) for each in value)

    def refuse_rest(self, harmless: Callable[[str, object], bool]) -> None:
        """Raise UnsupportedError for the first key that nothing has read and isn't `harmless`."""
        for key, value in self.values.items():
            name = key.removeprefix(self.prefix)
            if (self.prefix and name == key) or name in self.seen or harmless(name, value):
                continue
            allowed = "edgellm doesn't know this key, and ignoring it may be wrong"
            raise UnsupportedError(self.file, key, value, allowed)


def is_empty(value: object) -> bool:
    """Whether a setting asks for nothing: null, false, zero, or nothing else in it."""
    return not (value.any() if isinstance(value, np.ndarray) else value)
