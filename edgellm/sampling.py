"""Sampling: the options of a request, and the chain of filters that ends in one token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

DEFAULT_ORDER = (
    "logit_bias",
    "penalties",
    "dry",
    "top_k",
    "typ_p",
    "top_p",
    "min_p",
    "temperature",
)


@dataclass(frozen=True)
class Sampling:
    """How a request's tokens are drawn; names and defaults as llama.cpp's users know them."""

    temperature: float = 0.8
    """0 takes the likeliest token."""
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    samplers: tuple[str, ...] = DEFAULT_ORDER


class Filter(Protocol):
    """One link of the chain: gives tokens up (minus infinity) or reshapes their logits."""

    def apply(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        """New logits (vocab,) given the tokens so far, the prompt's included; may work in place."""
