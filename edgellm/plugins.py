"""Finds plugins by entry point and loads them by kind, one manager a kind."""

from __future__ import annotations

import functools
import os
import sys
from importlib.metadata import EntryPoint, entry_points

import pluggy

from edgellm.errors import PluginError
from edgellm.hookspecs import KINDS


def _wanted(name: str) -> bool:
    """EDGELLM_PLUGINS=cpu,bpe restricts what is loaded; an empty value loads nothing."""
    allowed = os.environ.get("EDGELLM_PLUGINS")
    return allowed is None or name in [word.strip() for word in allowed.split(",")]


def found(kind: str) -> list[EntryPoint]:
    """The entry points of one kind, by name, bundled and third-party alike; imports nothing."""
    return sorted(
        (point for point in entry_points(group=f"edgellm.{kind}s") if _wanted(point.name)),
        key=lambda point: point.name,
    )


@functools.cache
def load(kind: str) -> pluggy.PluginManager:
    """Import and register every plugin of a kind ("backend", "tokenizer", "sampler", "channel").

    A plugin that fails to import is named on standard error and left out. Raises PluginError for a
    misspelled hook.
    """
    manager = pluggy.PluginManager("edgellm")
    manager.add_hookspecs(KINDS[kind]())
    for point in found(kind):
        try:
            module = point.load()
        except Exception as error:  # a broken plugin must not take the others with it
            print(
                f"plugin {point.name!r} not loaded: {type(error).__name__}: {error}",
                file=sys.stderr,
            )
            continue
        try:
            manager.register(module, name=point.name)
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise PluginError(point.name, str(error)) from error
    return manager
