"""Mirostat 2: keeps the surprise of the drawn tokens near tau bits (Basu et al. 2020,
arXiv:2007.14966, algorithm 2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgellm.hookspecs import hookimpl
from edgellm.sampling import Filter, Sampling, candidates, keep
from edgellm.tokenizer import Tokenizer


class Mirostat:
    """Gives up tokens with a surprise above mu bits; then moves mu by eta times the error.

    The token that was drawn is learnt from the history of the next call.
    """

    def __init__(self, tau: float, eta: float) -> None:
        self.tau, self.eta = tau, eta
        self.mu = 2 * tau
        self._left = np.empty(0, np.intp)
        self._surprise = np.empty(0)
        """Which tokens the last call left, ascending, and the surprise of each in that choice."""

    def apply(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        place = np.searchsorted(self._left, history[-1]) if history else len(self._left)
        if place < len(self._left) and self._left[place] == history[-1]:
            self.mu -= self.eta * (float(self._surprise[place]) - self.tau)
        ids = candidates(logits)
        surprise = surprises(logits[ids])
        chosen = surprise <= self.mu
        chosen[surprise.argmin()] = True
        self._left = ids[chosen]
        self._surprise = surprises(logits[self._left])
        return keep(logits, self._left)


def surprises(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Surprise in bits (n,) of each of the tokens with these logits (n,): -log2 of its probability,
    but finite where the probability itself would be rounded to zero."""
    below = float(logits.max()) - logits.astype(np.float64)
    bits: NDArray[np.float64] = (below + np.log(np.exp(-below).sum())) / np.log(2)
    return bits


@hookimpl
def edgellm_sampler(name: str, options: Sampling, tokenizer: Tokenizer | None) -> Filter | None:
    return Mirostat(options.mirostat_tau, options.mirostat_eta) if name == "mirostat" else None
