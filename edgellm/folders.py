"""Where files of edgellm's own are kept: the cache, the configuration with its keys, the state."""

from __future__ import annotations

import os
from pathlib import Path

from edgellm.errors import UsageError


def cache() -> Path:
    """CACHE_DIRECTORY (systemd's), else `edgellm` in XDG_CACHE_HOME or ~/.cache.

    Raises UsageError where there is none of them.
    """
    return _folder("CACHE_DIRECTORY", "XDG_CACHE_HOME", ".cache")


def config() -> Path:
    """STATE_DIRECTORY (systemd's), else `edgellm` in XDG_CONFIG_HOME or ~/.config.

    Raises UsageError where there is none of them.
    """
    return _folder("STATE_DIRECTORY", "XDG_CONFIG_HOME", ".config")


def state() -> Path:
    """STATE_DIRECTORY (systemd's), else `edgellm` in XDG_STATE_HOME or ~/.local/state.

    Raises UsageError where there is none of them.
    """
    return _folder("STATE_DIRECTORY", "XDG_STATE_HOME", ".local/state")


def _folder(service: str, variable: str, default: str) -> Path:
    if named := os.environ.get(service):
        return Path(named.split(":")[0])
    try:
        return Path(os.environ.get(variable) or Path.home() / default) / "edgellm"
    except RuntimeError as error:
        raise UsageError(f"there is no home folder; set {variable} to a folder") from error
