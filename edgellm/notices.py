"""Notices: what people and devices should know of the machine, told to all who listen."""

from __future__ import annotations

from collections.abc import Callable


class Notices:
    """Used in the event loop's thread alone."""

    def __init__(self) -> None:
        self._listeners: dict[object, Callable[[str], object]] = {}
        self._standing = ""

    def listen(self, tell: Callable[[str], object]) -> Callable[[], None]:
        """Have `tell` called with each notice, at once with one that still holds; returns what ends
        that."""
        key = object()
        self._listeners[key] = tell
        if self._standing:
            tell(self._standing)
        return lambda: self._listeners.pop(key, None) and None

    def tell(self, text: str, holds: bool = False) -> None:
        """Tell all who listen; with `holds`, until the next notice those who come later, too."""
        self._standing = text if holds else ""
        for tell in list(self._listeners.values()):
            tell(text)
