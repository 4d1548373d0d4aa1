"""Min-p: keeps tokens at least min_p times as likely as the likeliest (Nguyen et al. 2024,
arXiv:2407.01082)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgellm.hookspecs import hookimpl
from edgellm.sampling import Filter, Sampling, keep
from edgellm.tokenizer import Tokenizer


class MinP:
    by_value = True

    def __init__(self, p: float) -> None:
        self.p = p
        self.idle = p <= 0

    def apply(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        if self.p <= 0:
            return logits
        # A ratio of probabilities is a difference of logits: no softmax needed.
        lowest = logits.max() + np.float32(math.log(self.p))
        return keep(logits, np.flatnonzero(logits >= lowest))


@hookimpl
def edgellm_sampler(name: str, options: Sampling, tokenizer: Tokenizer | None) -> Filter | None:
    return MinP(options.min_p) if name == "min_p" else None
