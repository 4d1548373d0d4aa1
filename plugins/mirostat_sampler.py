"""Mirostat 2: keeps the surprise of the drawn tokens near tau bits (Basu et al. 2020,
arXiv:2007.14966, algorithm 2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgellm.hookspecs import hookimpl
from edgellm.sampling import Filter, Sampling, candidates, keep, softmax
from edgellm.tokenizer import Tokenizer


class Mirostat:
    """Gives up tokens with a surprise above mu bits; then moves mu by eta times the error.

    The token that was drawn is learnt from the history of the next call.
    """

    def __init__(self, tau: float, eta: float) -> None:
        self.tau, self.eta = tau, eta
        self.mu = 2 * tau
        self.offered: dict[int, float] = {}
        """Surprise in bits of each token that the last call left, given that choice."""

    def apply(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        if history and (observed := self.offered.get(history[-1])) is not None:
            self.mu -= self.eta * (observed - self.tau)
        ids = candidates(logits)
        probabilities = softmax(logits[ids])
        chosen = probabilities >= 2.0**-self.mu
        chosen[probabilities.argmax()] = True
        ids = ids[chosen]
        surprise = -np.log2(softmax(logits[ids]))
        self.offered = dict(zip(ids.tolist(), surprise.tolist(), strict=True))
        return keep(logits, ids)


@hookimpl
def edgellm_sampler(name: str, options: Sampling, tokenizer: Tokenizer | None) -> Filter | None:
    return Mirostat(options.mirostat_tau, options.mirostat_eta) if name == "mirostat" else None
