"""The adapters and rows that PyTorch's gradients were computed for; see
make_training_references.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgellm import adapter as adapters
from edgellm.adapter import Adapter, LowRank
from edgellm.checkpoint import Checkpoint
from edgellm.training.batch import Batch

MODELS = Path(__file__).parent / "data" / "models"
OUT = Path(__file__).parent / "data" / "training"
FAMILIES = sorted(path.name for path in MODELS.iterdir())
RANK, SCALE, RATE = 2, 1.5, 1e-2


def adapter(base: Checkpoint) -> Adapter:
    """An adapter in the midst of its training: neither matrix is 0."""
    rng = np.random.default_rng(5)
    matrices = {}
    for name, (out, width) in adapters.targets(base).items():
        if name.startswith("blk."):
            a = rng.standard_normal((RANK, width)) / width**0.5
            b = rng.standard_normal((out, RANK)) * 0.3
            matrices[name] = LowRank(a.astype(np.float32), b.astype(np.float32), SCALE)
    return Adapter(name="case", matrices=matrices)


def rows(base: Checkpoint) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Tokens and targets of two rows, some of them not learnt."""
    rng = np.random.default_rng(6)
    tokens = rng.integers(1, base.config.vocab, (2, 20)).astype(np.int32)
    learnt = rng.random(tokens.shape) < 0.7
    return tokens, np.where(learnt, np.roll(tokens, -1, 1), -1).astype(np.int32)


def plain(tokens: NDArray[np.int32], targets: NDArray[np.int32]) -> Batch:
    """Rows of one sample each."""
    return Batch(tokens, targets, np.zeros_like(tokens))
