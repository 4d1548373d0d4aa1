"""Top-k: keeps the k likeliest tokens (Fan et al. 2018, arXiv:1805.04833)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgellm.hookspecs import hookimpl
from edgellm.sampling import Filter, Sampling, keep
from edgellm.tokenizer import Tokenizer


class TopK:
    """Among equals at the border the lower ids stay, so that exactly k do."""

    def __init__(self, k: int) -> None:
        self.k = k

    def apply(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        if not 0 < self.k < len(logits):
            return logits
        border = np.partition(logits, len(logits) - self.k)[len(logits) - self.k]
        above = np.flatnonzero(logits > border)
        equal = np.flatnonzero(logits == border)[: self.k - len(above)]
        return keep(logits, np.concatenate([above, equal]))


@hookimpl
def edgellm_sampler(name: str, options: Sampling, tokenizer: Tokenizer | None) -> Filter | None:
    return TopK(options.top_k) if name == "top_k" else None
