"""An edgellm plugin: the sampler filter `no_digits`, which makes a model spell its numbers out."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

import edgellm
from edgellm.sampling import Sampling
from edgellm.tokenizer import Tokenizer


class NoDigits:
    """Gives up every token that holds a digit."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        pieces = (tokenizer.piece(token) for token in range(tokenizer.size))
        self.digits = np.array([any(48 <= byte <= 57 for byte in piece) for piece in pieces])

    def apply(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        logits[np.flatnonzero(self.digits)] = -np.inf
        return logits


@edgellm.hookimpl
def edgellm_sampler(name: str, options: Sampling, tokenizer: Tokenizer | None) -> NoDigits | None:
    return NoDigits(tokenizer) if name == "no_digits" and tokenizer is not None else None
