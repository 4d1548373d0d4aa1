"""Finds plugins by entry point and loads them by kind, one manager a kind."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pluggy

from edgellm import entry_point
from edgellm.entry_point import EntryPoint
from edgellm.errors import EdgeError, PluginError
from edgellm.hookspecs import KINDS

BUNDLED = ("edgellm_backends.", "edgellm_plugins.")
"""Packages of the plugins that come with edgellm."""


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


@functools.lru_cache(maxsize=1)
def _installed(path: tuple[str, ...]) -> dict[str, list[EntryPoint]]:
    """The entry points of every kind, for a module search path."""
    every = list(entry_point.find(path))
    return {kind: [one for one in every if one.group == f"edgellm.{kind}s"] for kind in KINDS}


def found(kind: str) -> list[EntryPoint]:
    """The entry points of one kind, bundled ones first, then by name; imports nothing.

    pluggy asks the last registered first, so a third-party plugin overrides a bundled one.
    """

    def rank(point: EntryPoint) -> tuple[bool, str]:
        return not point.value.startswith(BUNDLED), point.name

    points = _installed(tuple(sys.path))[kind]
    return sorted((point for point in points if _wanted(point.name)), key=rank)


def _origin(point: EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution that brought it, read anew each time."""
    return point.distribution.name, point.distribution.version


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


def _left_out(plugin: str, why: str) -> None:
    print(f"plugin {plugin} not loaded: {why}", file=sys.stderr)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


class Manager(pluggy.PluginManager):
    """The plugins of one kind."""

    def __init__(self) -> None:
        super().__init__("edgellm")
        self.points: dict[str, EntryPoint] = {}
        """Where a plugin was found, by its name."""
        for hooks in KINDS.values():  # a module may have hooks of several kinds
            self.add_hookspecs(hooks())

    def parse_hookspec_opts(
        self, module_or_class: ModuleType | type, name: str
    ) -> pluggy.HookspecOpts | None:
        # Else pluggy goes by way of `inspect` through all that a class has from `object`.
        if not name.startswith("edgellm_"):
            return None
        return super().parse_hookspec_opts(module_or_class, name)


@functools.cache
def load(kind: str) -> Manager:
    """Import and register every plugin of a kind ("backend", "tokenizer", "sampler", "channel").

    A plugin that fails to import, or that has a name or a module that was there before, is named on
    standard error and left out. Raises PluginError for a misspelled hook. EDGELLM_TRACE=1 prints
    every call of a hook.
    """
    manager = Manager()
    for point in found(kind):
        if manager.has_plugin(point.name):
            _left_out(f"{point.name!r} of {_origin(point)[0]}", "the name is taken")
            continue
        try:
            module = point.load()
        except (Exception, SystemExit) as error:  # a broken plugin must not end the others
            _left_out(repr(point.name), f"{type(error).__name__}: {error}")
            continue
        if manager.is_registered(module):
            other = manager.get_name(module)
            _left_out(f"{point.name!r} of {_origin(point)[0]}", f"{other!r} is the same module")
            continue
        try:
            manager.register(module, name=point.name)
            manager.points[point.name] = point
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise PluginError(point.name, " ".join(str(error).split())) from error
    if os.environ.get("EDGELLM_TRACE", "0") != "0":
        _trace(manager)
    return manager


def ask(kind: str, **arguments: object) -> Any:
    """The first answer of the plugins of a kind to its hook, None if all decline.

    Raises PluginError for one that fails, besides what `load` raises.
    """
    hook = getattr(load(kind).hook, f"edgellm_{kind}")
    try:
        return hook(**arguments)
    except EdgeError:
        raise
    except Exception as error:  # a plugin from outside
        import traceback

        ran = {frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)}
        culprit = next(
            (each.plugin_name for each in hook.get_hookimpls() if each.function.__code__ in ran),
            "unknown",
        )
        raise PluginError(culprit, f"{type(error).__name__}: {error}") from error


def describe(kind: str) -> list[About]:
    """What is loaded of a kind, by name. Raises PluginError as `load` does."""
    manager = load(kind)
    about = []
    for name, plugin in sorted(manager.list_name_plugin()):
        callers = manager.get_hookcallers(plugin) or ()
        hooks = sorted(caller.name for caller in callers if hasattr(KINDS[kind], caller.name))
        version = _origin(manager.points[name])[1]
        about.append(About(name, version, kind, tuple(hooks)))
    return about


def offered(kind: str) -> str:
    """The plugins of a kind by name, to be told where none of them serves; imports nothing."""
    names = ", ".join(sorted(point.name for point in found(kind))) or "none"
    allowed = os.environ.get("EDGELLM_PLUGINS")
    return names if allowed is None else f"{names} (EDGELLM_PLUGINS={allowed} allows no others)"
