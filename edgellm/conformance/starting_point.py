"""Writes the beginning of a backend: `edgellm.starting_point` under another name."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from edgellm.errors import UsageError

PACKAGE = "starting_point"
MODULES = ("__init__.py", "executor.py", "transformer.py")
"""Of the plugin's package; the other files lie beside it."""
OTHERS = ("pyproject.toml", "test_backend.py")


def write(name: str, folder: Path) -> Iterator[Path]:
    """Write the backend `name` to a new folder; yields each file. Raises UsageError where the
    folder has something in it, or can't be written."""
    source, package = files(f"edgellm.{PACKAGE}"), folder / f"edgellm_{name}"
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder}: there is something in it; give a new folder")
        package.mkdir(parents=True)
        for file in (*OTHERS, *MODULES):
            path = (package if file in MODULES else folder) / file
            text = source.joinpath(file).read_text(encoding="utf-8")
            path.write_text(text.replace(PACKAGE, name), encoding="utf-8")
            yield path
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}") from error
