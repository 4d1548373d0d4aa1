"""Temperature: divides the logits by T, so that T < 1 sharpens and T > 1 flattens the choice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgellm.hookspecs import hookimpl
from edgellm.sampling import Filter, Sampling, keep
from edgellm.tokenizer import Tokenizer

COLDEST = 1e-30
"""Temperatures above 0 that float32 can't hold are taken for this one."""


class Temperature:
    by_value = True

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def apply(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        if self.temperature == 0:
            return keep(logits, np.array([logits.argmax()]))
        # Only differences count; taken to the highest, they overflow to minus infinity at worst.
        logits -= logits.max()
        with np.errstate(over="ignore"):
            logits /= np.float32(max(self.temperature, COLDEST))
        return logits


@hookimpl
def edgellm_sampler(name: str, options: Sampling, tokenizer: Tokenizer | None) -> Filter | None:
    return Temperature(options.temperature) if name == "temperature" else None
