"""Entry points, found in the metadata of what is installed.

`importlib.metadata` finds them too, but its import, with that of `email` for other parts of the
metadata, would take a tenth of a start. It is left for what is seldom asked: names and versions.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from importlib.metadata import Distribution

SUFFIXES = (".dist-info", ".egg-info")
"""Of folders of metadata (Python's packaging specifications, "Recording installed projects")."""


class EntryPoint(NamedTuple):
    """A line of a distribution's `entry_points.txt`."""

    group: str
    name: str
    value: str
    """MODULE or MODULE:ATTRIBUTE."""
    folder: str
    """Of the distribution's metadata."""

    def load(self) -> object:
        """The module, imported, or the attribute of it."""
        module, _, attribute = self.value.partition("[")[0].partition(":")
        names = filter(None, attribute.strip().split("."))
        return functools.reduce(getattr, names, importlib.import_module(module.strip()))

    @property
    def distribution(self) -> Distribution:
        """What has brought it."""
        from importlib.metadata import Distribution

        return Distribution.at(self.folder)


def find(path: Iterable[str]) -> Iterator[EntryPoint]:
    """Those of every distribution in the folders of a module search path; of two by the same name
    the first counts."""
    seen: set[str] = set()
    for place in path:
        try:
            children = os.listdir(place or ".")
        except OSError:  # the search path may name what isn't there
            continue
        for child in children:
            if child.endswith(SUFFIXES):
                name = re.sub("[-_.]+", "_", child.rpartition(".")[0].partition("-")[0]).lower()
                if name not in seen:
                    seen.add(name)
                    yield from _read(os.path.join(place, child))


def _read(folder: str) -> Iterator[EntryPoint]:
    try:
        with open(os.path.join(folder, "entry_points.txt"), encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError):  # few have any
        return
    group = ""
    for line in map(str.strip, lines):
        name, equals, value = line.partition("=")
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1].strip()
        elif equals and not line.startswith("#"):
            yield EntryPoint(group, name.strip(), value.strip(), folder)
