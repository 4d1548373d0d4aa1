"""What affinities say of words, written out plainly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgellm.training.affinity import Affinity


def evidence(affinity: Affinity, said: Sequence[int], word: int) -> float:
    """The worth of the words of a request that a word finds, of which it may also find none."""
    scores = [float(affinity.vectors[word] @ affinity.vectors[other]) for other in said]
    shares = np.exp([*scores, float(affinity.null[word])])
    worth = [*(float(affinity.worth[other]) for other in said), 0.0]
    return float(shares @ np.array(worth) / shares.sum())


def means(
    affinity: Affinity, said: Sequence[int], choices: Sequence[Sequence[int]]
) -> NDArray[np.float64]:
    """The mean evidence of each choice's words."""
    return np.array([np.mean([evidence(affinity, said, word) for word in one]) for one in choices])
