"""Locally typical sampling: the tokens whose surprise is nearest to the expected one (Meister et
al. 2022, arXiv:2202.00666)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgellm.hookspecs import hookimpl
from edgellm.sampling import Filter, Sampling, candidates, keep, softmax
from edgellm.tokenizer import Tokenizer


class Typical:
    """Keeps tokens by |surprise - entropy|, least first, until their probabilities exceed p."""

    by_value = True

    def __init__(self, p: float) -> None:
        self.p = p
        self.idle = p >= 1

    def apply(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        if self.p >= 1:
            return logits
        ids = candidates(logits)
        ids = ids[softmax(logits[ids]) > 0]  # their logarithm is needed
        probabilities = softmax(logits[ids])
        surprise = -np.log(probabilities)
        entropy = float(probabilities @ surprise)
        order = np.argsort(np.abs(surprise - entropy), kind="stable")
        exceeded = np.searchsorted(np.cumsum(probabilities[order]), self.p, side="right")
        return keep(logits, ids[order[: exceeded + 1]])


@hookimpl
def edgellm_sampler(name: str, options: Sampling, tokenizer: Tokenizer | None) -> Filter | None:
    return Typical(options.typical_p) if name == "typ_p" else None
