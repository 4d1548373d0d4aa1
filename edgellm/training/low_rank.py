"""The two small matrices that are learnt beside each chosen matrix of a model."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgellm import adapter
from edgellm.adapter import Adapter, LowRank
from edgellm.checkpoint import Checkpoint
from edgellm.errors import UsageError
from edgellm.training.names import LOW, UP

Arrays = dict[str, NDArray[np.float32]]


def chosen(base: Checkpoint, targets: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The matrices to adapt, with their shapes: those of the layers whose names, such as attn_q or
    blk.3.ffn_down, match one of the patterns.

    Raises UsageError for a pattern that matches none.
    """
    shapes = {
        name.removesuffix(".weight"): shape
        for name, shape in adapter.targets(base).items()
        if name.startswith("blk.")
    }
    found: set[str] = set()
    for pattern in targets:
        fitting = {
            name
            for name in shapes
            if fnmatch.fnmatchcase(name, pattern)
            or fnmatch.fnmatchcase(name.split(".", 2)[2], pattern)
        }
        if not fitting:
            known = ", ".join(sorted({name.split(".", 2)[2] for name in shapes}))
            raise UsageError(f"no matrix of {base.path} is called {pattern!r}; there are {known}")
        found |= fitting
    return {name: shape for name, shape in shapes.items() if name in found}


def first_values(shapes: Mapping[str, tuple[int, int]], rank: int, seed: int) -> Arrays:
    """The down matrices uniform within 1 / sqrt(in), the up matrices 0, as PEFT begins: at first
    the model is what it was."""
    rng = np.random.default_rng(seed)
    values: Arrays = {}
    for name, (out, width) in shapes.items():
        low = rng.uniform(-1, 1, (rank, width)) / np.sqrt(width)
        values[f"{name}.{LOW}"] = low.astype(np.float32)
        values[f"{name}.{UP}"] = np.zeros((out, rank), np.float32)
    return values


def as_adapter(
    name: str,
    learnt: Mapping[str, NDArray[np.float32]],
    scale: float,
    base: Checkpoint,
    origin: str,
) -> Adapter:
    """What has been learnt, bound to its base."""
    matrices = {
        f"{key.removesuffix(LOW)}weight": LowRank(low, learnt[key.removesuffix(LOW) + UP], scale)
        for key, low in learnt.items()
        if key.endswith(LOW)
    }
    return Adapter(
        name=name,
        matrices=matrices,
        base_sha256=adapter.base_sha256(base),
        base_name=adapter.base_name(base),
        licence=base.provenance.licence,
        origin=origin,
    )
