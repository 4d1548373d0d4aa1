"""Adapters with random values for any base."""

from __future__ import annotations

import numpy as np

from edgellm import adapter
from edgellm.adapter import Adapter, LowRank
from edgellm.checkpoint import ModelFile


def random_adapter(
    base: ModelFile,
    name: str = "random",
    *,
    rank: int = 4,
    seed: int = 1,
    size: float = 1.0,
    only: str = "",
    bound: bool = True,
) -> Adapter:
    """For every matrix, or those with `only` in their names; large enough to show."""
    rng = np.random.default_rng(seed)
    matrices = {}
    for weight, (out, width) in adapter.targets(base).items():
        if only not in weight:
            continue
        a = rng.normal(size=(rank, width), scale=width**-0.5).astype(np.float32)
        b = rng.normal(size=(out, rank), scale=size).astype(np.float32)
        matrices[weight] = LowRank(a, b, 2.0 / rank)
    return Adapter(
        name=name,
        matrices=matrices,
        base_sha256=adapter.base_sha256(base) if bound else "",
        base_name=adapter.base_name(base),
        licence="MIT",
        origin="random values, for tests",
    )
