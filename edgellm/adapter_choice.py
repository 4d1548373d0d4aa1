"""Which of a model's adapters an answer is computed with, and how strongly.

A choice names them: "pirate", "pirate:0.5,terse", or "none". Without one all count that the model
was opened with, as llama.cpp does it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.errors import UsageError

if TYPE_CHECKING:
    from edgellm.adapter import Adapter
    from edgellm.checkpoint import ModelFile
    from edgellm.executor import Backend

Strengths = tuple[float, ...]
"""A factor for each adapter that a model was opened with; 0 is off."""

NONE = "none"
MOST = 64
"""Adapters of a model, and names in a choice."""
LARGEST = 1000.0
"""Of a strength; larger ones only make numbers overflow."""


def strengths(choice: str | None, names: Collection[str]) -> Strengths:
    """What a choice asks of the adapters with these names.

    Raises UsageError for a name that isn't among them, and a strength that is no number.
    """
    if choice is None:
        return (1.0,) * len(names)
    found = dict.fromkeys(names, 0.0)
    if choice in ("", NONE) and choice not in found:
        return tuple(found.values())
    parts = [choice] if choice in found else choice.split(",", MOST)
    for part in parts:
        name, strength = (part, 1.0) if part in found else _split(part)
        if name not in found:
            there = f"there are {', '.join(names)}" if names else "the model was opened with none"
            raise UsageError(f"no adapter is called {name[:64]!r}; {there}")
        found[name] = strength
    return tuple(found.values())


def load(
    given: Sequence[str | os.PathLike[str]],
    base: ModelFile,
    backend: Backend | None = None,
    *,
    any_base: bool = False,
) -> tuple[Adapter, ...]:
    """The adapters in files, each given as FILE or FILE:STRENGTH, for a model and what runs it.

    Raises what `edgellm.adapter.read` does, and UsageError where two have the same name and for a
    backend that runs none.
    """
    if not given:
        return ()
    from edgellm import adapter
    from edgellm.executor import AdaptingBackend

    if backend is not None and not isinstance(backend, AdaptingBackend):
        remedy = "take --device cpu, or put them into the weights: edgellm merge"
        raise UsageError(f"the {backend.name} backend runs no adapters; {remedy}")
    if len(given) > MOST:
        raise UsageError(f"{len(given)} adapters; a model takes up to {MOST}")
    found: dict[str, Adapter] = {}
    for each in given:
        text = os.fspath(each)
        path, strength = (text, 1.0) if Path(text).exists() else _split(text)
        read = adapter.read(path, base, any_base=any_base)
        if read.name in found or read.name == NONE:
            raise UsageError(f"{path}: {read.name!r} is taken; give its file another name")
        matrices = {
            name: replace(matrix, scale=matrix.scale * strength)
            for name, matrix in read.matrices.items()
        }
        found[read.name] = replace(read, matrices=matrices)
    return tuple(found.values())


def _split(text: str) -> tuple[str, float]:
    """NAME:STRENGTH, or a name alone, which has strength 1."""
    name, colon, number = text.rpartition(":")
    if not colon:
        return text, 1.0
    try:
        strength = float(number)
    except ValueError:
        return text, 1.0
    if not math.isfinite(strength) or abs(strength) > LARGEST:
        raise UsageError(f"{text[:64]}: a strength is a number from {-LARGEST:g} to {LARGEST:g}")
    return name, strength
