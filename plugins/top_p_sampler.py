"""Top-p, or nucleus: the fewest tokens whose probabilities reach p (Holtzman et al. 2019,
arXiv:1904.09751)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgellm.hookspecs import hookimpl
from edgellm.sampling import Filter, Sampling, candidates, keep, softmax
from edgellm.tokenizer import Tokenizer

HEAD = 256


class TopP:
    """Keeps at least one token; among equals the lower id comes first."""

    by_value = True

    def __init__(self, p: float) -> None:
        self.p = p
        self.idle = p >= 1

    def apply(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        if self.p >= 1:
            return logits
        ids = candidates(logits)
        probabilities = softmax(logits[ids])
        if len(ids) > 4 * HEAD:
            # Sorting a whole vocabulary takes 20 ms, and its head is nearly always enough.
            head = probabilities > np.partition(probabilities, -HEAD)[-HEAD]
            if probabilities[head].sum() >= self.p:
                ids, probabilities = ids[head], probabilities[head]
        order = np.argsort(-probabilities, kind="stable")
        reached = np.searchsorted(np.cumsum(probabilities[order]), self.p, side="left")
        return keep(logits, ids[order[: reached + 1]])


@hookimpl
def edgellm_sampler(name: str, options: Sampling, tokenizer: Tokenizer | None) -> Filter | None:
    return TopP(options.top_p) if name == "top_p" else None
