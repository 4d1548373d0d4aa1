"""Bundles that were built because a model file was to be run, kept for the next time."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm import __version__, bundle, folders, model_files
from edgellm.errors import EdgeError, FormatError, TrustError

if TYPE_CHECKING:
    from edgellm.bundle import Bundle
    from edgellm.executor import Backend

MAX_BYTES = 16 << 30
"""The bundles that were used last, up to so many bytes, are kept."""


@dataclass(frozen=True)
class Entry:
    """One bundle in the cache."""

    path: Path
    nbytes: int
    used: float
    """When it was last opened, in seconds since 1970."""


def folder() -> Path:
    """Where the bundles are. Raises UsageError where there is no home."""
    return folders.cache() / "bundles"


def place(path: Path, backend: Backend) -> Path:
    """Where the bundle of a model file is for this machine, or would be.

    The name has two parts: what it is built from and for, and with what. Raises UsageError where
    the model can't be read or there is no home, BackendError where the backend has no target here.
    """
    target = backend.target()
    wanted = "\n".join((model_files.identity(path), backend.name, target.name))
    made = "\n".join((__version__, str(bundle.VERSION), backend.recipe(), _sources()))
    model, build = (hashlib.sha256(text.encode()).hexdigest()[:24] for text in (wanted, made))
    return folder() / f"{model}-{build}.edge"


def find(path: Path) -> Bundle | None:
    """The bundle at a place in the cache; None where there is none, or it is damaged."""
    if not path.is_file():
        return None
    try:
        found = bundle.open(path)
    except (FormatError, TrustError):
        path.unlink(missing_ok=True)  # it is built anew
        return None
    with contextlib.suppress(OSError):  # a cache that can only be read
        os.utime(path)
    return found


def entries() -> list[Entry]:
    """What is in the cache, that used last first."""
    found = []
    for path in folder().glob("*.edge"):
        try:
            about = path.stat()
        except FileNotFoundError:
            continue  # removed by another process just now
        found.append(Entry(path, about.st_size, about.st_mtime))
    return sorted(found, key=lambda entry: -entry.used)


def describe(path: Path) -> str:
    """Which model it is, and for which target, in one line."""
    try:
        found = bundle.read_manifest(path)
    except EdgeError as error:
        return f"unusable: {error}"
    return f"{found.provenance.name} ({found.source.file}) for {found.target.name}"


def tidy(path: Path) -> None:
    """After a bundle was put at `path`: remove those of the same model that another state of
    edgellm has built, and those used longest ago as far as the cache is too large."""
    model, kept = path.name.partition("-")[0], 0
    for entry in entries():
        kept += entry.nbytes
        superseded = entry.path.name.startswith(f"{model}-") and entry.path != path
        if superseded or (kept > MAX_BYTES and entry.path != path):
            entry.path.unlink(missing_ok=True)
            kept -= entry.nbytes


def clear() -> int:
    """Remove all of them; returns how many there were."""
    found = entries()
    for entry in found:
        entry.path.unlink(missing_ok=True)
    return len(found)


def _sources() -> str:
    """What tells one state of this package's code from another, by its files' sizes and times."""
    root = Path(__file__).parent
    files = [*root.glob("*.py"), *root.glob("gguf/*.py"), *root.glob("huggingface/*.py")]
    abouts = ((file.name, file.stat()) for file in sorted(files))
    return " ".join(f"{name} {about.st_size} {about.st_mtime_ns}" for name, about in abouts)
