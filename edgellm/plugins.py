"""Finds plugins by entry point and loads them by kind, one manager a kind."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

import pluggy

from edgellm.errors import PluginError
from edgellm.hookspecs import KINDS


@dataclass(frozen=True)
class About:
    """One plugin as `edgellm plugins` lists it."""

    name: str
    version: str
    """Of the distribution that brought it."""
    kind: str
    hooks: tuple[str, ...]


def _wanted(name: str) -> bool:
    """EDGELLM_PLUGINS=cpu,bpe restricts what is loaded; an empty value loads nothing."""
    allowed = os.environ.get("EDGELLM_PLUGINS")
    return allowed is None or name in [word.strip() for word in allowed.split(",")]


def found(kind: str) -> list[EntryPoint]:
    """The entry points of one kind, bundled ones first, then by name; imports nothing.

    pluggy asks the last registered first, so a third-party plugin overrides a bundled one.
    """

    def rank(point: EntryPoint) -> tuple[bool, str]:
        return point.dist is None or point.dist.name != "edgellm", point.name

    return sorted(
        (point for point in entry_points(group=f"edgellm.{kind}s") if _wanted(point.name)), key=rank
    )


def _trace(manager: pluggy.PluginManager) -> None:
    """Print each hook call and what came of it on standard error."""

    def before(
        hook: str, implementations: Sequence[pluggy.HookImpl], given: Mapping[str, object]
    ) -> None:
        asked = ", ".join(str(one.plugin_name) for one in reversed(implementations)) or "nobody"
        values = ", ".join(f"{name}={_short(value)}" for name, value in given.items())
        print(f"trace: {hook}({values}) asks {asked}", file=sys.stderr)

    def after(
        outcome: pluggy.Result[object],
        hook: str,
        implementations: Sequence[pluggy.HookImpl],
        given: Mapping[str, object],
    ) -> None:
        what = outcome.exception or outcome.get_result()
        print(f"trace: {hook} -> {_short(what)}", file=sys.stderr)

    manager.add_hookcall_monitoring(before, after)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


@functools.cache
def load(kind: str) -> pluggy.PluginManager:
    """Import and register every plugin of a kind ("backend", "tokenizer", "sampler", "channel").

    A plugin that fails to import is named on standard error and left out. Raises PluginError for a
    misspelled hook. EDGELLM_TRACE=1 prints every call of a hook.
    """
    manager = pluggy.PluginManager("edgellm")
    manager.add_hookspecs(KINDS[kind]())
    for point in found(kind):
        if manager.has_plugin(point.name):
            owner = point.dist.name if point.dist else "nobody"
            print(
                f"plugin {point.name!r} of {owner} not loaded: the name is taken", file=sys.stderr
            )
            continue
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
            raise PluginError(point.name, " ".join(str(error).split())) from error
    if os.environ.get("EDGELLM_TRACE", "0") != "0":
        _trace(manager)
    return manager


def describe(kind: str) -> list[About]:
    """What is loaded of a kind, by name. Raises PluginError as `load` does."""
    manager = load(kind)
    versions = {point.name: point.dist.version for point in found(kind) if point.dist is not None}
    return [
        About(
            name,
            versions.get(name, ""),
            kind,
            tuple(sorted(caller.name for caller in manager.get_hookcallers(plugin) or ())),
        )
        for name, plugin in sorted(manager.list_name_plugin())
        if plugin is not None
    ]
