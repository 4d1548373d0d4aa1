"""Sampling: the options of a request, and the chain of filters that ends in one token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from edgellm import plugins
from edgellm.errors import BackendError, EdgeError, PluginError, UsageError

if TYPE_CHECKING:
    from edgellm.executor import Choice
    from edgellm.tokenizer import Tokenizer

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
TRUNCATING = frozenset({"top_k", "typ_p", "top_p", "min_p"})
"""The bundled filters that give up unlikely tokens; mirostat takes their place."""

_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 1000),
    "top_k": (-(2**31), 2**31 - 1),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "typical_p": (0, 1),
    "repeat_penalty": (1e-3, 1000),
    "repeat_last_n": (-1, 2**31 - 1),
    "presence_penalty": (-1000, 1000),
    "frequency_penalty": (-1000, 1000),
    "dry_multiplier": (0, 1000),
    "dry_base": (1, 1000),
    "dry_allowed_length": (1, 2**31 - 1),
    "dry_penalty_last_n": (-1, 2**31 - 1),
    "mirostat_tau": (0, 100),
    "mirostat_eta": (0, 10),
    "seed": (0, 2**64 - 1),
}


@dataclass(frozen=True)
class Sampling:
    """How a request's tokens are drawn; names and defaults as llama.cpp's users know them.

    Raises UsageError, naming the option and its range, for a value that can't be used.
    """

    temperature: float = 0.8
    """0 takes the likeliest token."""
    top_k: int = 40
    """Keep the k likeliest tokens; 0 or less keeps all."""
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    """How many of the latest tokens the penalties look at; -1: all, 0: none."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    """How many of the latest tokens DRY looks at; -1: all, 0: none."""
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0
    """2 turns Mirostat 2 on; it takes the place of the filters named in TRUNCATING."""
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these token ids; minus infinity forbids one."""
    seed: int | None = None
    """The same seed gives the same tokens; None draws one from the operating system."""
    samplers: tuple[str, ...] = DEFAULT_ORDER
    """The chain: names of filters in the order in which they are applied."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is None and name == "seed":
                continue
            whole = isinstance(type(self).__dict__[name], int) or name == "seed"
            kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
            if isinstance(value, bool) or not isinstance(value, kinds):
                kind = "a whole number" if whole else "a number"
                raise UsageError(f"{name} is {value!r}; it must be {kind}")
            if not low <= value <= high:  # also catches NaN
                raise UsageError(f"{name} is {value!r}; it must be from {low:g} to {high:g}")
        if self.mirostat not in (0, 2):
            raise UsageError(f"mirostat is {self.mirostat!r}; it must be 0 (off) or 2")
        for token, bias in self.logit_bias.items():
            if not isinstance(token, int | np.integer) or token < 0:
                raise UsageError(
                    f"logit_bias has the token {token!r}; ids are whole numbers from 0"
                )
            if not isinstance(bias, int | float) or not bias < math.inf:
                raise UsageError(f"logit_bias of token {token} is {bias!r}; it must be a number")
        for name in ("samplers", "dry_sequence_breakers"):
            words = getattr(self, name)
            if isinstance(words, str) or not all(isinstance(w, str) and w for w in words):
                raise UsageError(f"{name} is {words!r}; it must be a list of non-empty texts")

    def chain(self) -> tuple[str, ...]:
        """Names of the filters that these options put to work, in order.

        At temperature 0 nothing needs to be truncated. Mirostat comes last and replaces the
        truncating filters, since it would otherwise steer a distribution that isn't its own.
        """
        dropped = TRUNCATING if self.temperature == 0 or self.mirostat else frozenset()
        names = tuple(name for name in self.samplers if name not in dropped | {"mirostat"})
        return (*names, "mirostat") if self.mirostat and self.temperature > 0 else names


class Filter(Protocol):
    """One link of the chain: gives tokens up (minus infinity) or reshapes their logits.

    Three attributes may spare work: where `idle` is true, the filter changes nothing and isn't
    asked; where `by_value` is, it doesn't look at whose a logit is, and may be given only those of
    the tokens that aren't given up yet; where `highest` isn't 0, all it does is to keep so many of
    the highest logits, of equals those of the lower ids.
    """

    def apply(self, logits: NDArray[np.float32], history: Sequence[int]) -> NDArray[np.float32]:
        """New logits (vocab,) given the tokens so far, the prompt's included; may work in place."""


class Sampler:
    """Draws one token after the other for one request, by the chain that its options declare."""

    def __init__(
        self,
        options: Sampling,
        tokenizer: Tokenizer | None = None,
        choice: Choice | None = None,
    ) -> None:
        """Raises UsageError for a name in the chain that no plugin answers to."""
        self.choice = choice
        self.options = options
        self.rng = np.random.Generator(np.random.PCG64(options.seed))
        self.filters: list[tuple[str, Filter]] = []
        for name in options.chain():
            made = plugins.ask("sampler", name=name, options=options, tokenizer=tokenizer)
            if made is None:
                known = plugins.offered("sampler")
                raise UsageError(f"samplers has {name!r}, which no plugin offers; known: {known}")
            if not getattr(made, "idle", False):
                self.filters.append((name, made))
        if options.temperature == 0 and self.filters and self.filters[-1][0] == "temperature":
            self.filters.pop()  # the likeliest token is taken in any case

    def sample(self, logits: NDArray[np.float32], history: Sequence[int]) -> int:
        """Draw a token from logits (vocab,), which are left as they are.

        Raises PluginError if a filter fails, returns something other than logits of the same shape,
        or leaves no token to choose; BackendError if the model's own logits aren't numbers.
        """
        size, choice = logits.shape[0], self.choice
        # Without `choice` it is the first that is no number, if there is one.
        likeliest = choice.argmax(logits) if choice else int(logits.argmax())
        if not math.isfinite(logits[likeliest]):
            raise BackendError("the model computed logits that are not numbers")
        if self.options.temperature == 0 and not self.filters:
            return likeliest
        current = np.array(logits, np.float32)
        ids: NDArray[np.intp] | None = None  # whose logits `current` holds, if not everybody's
        for name, link in self.filters:
            highest, by_value = getattr(link, "highest", 0), getattr(link, "by_value", False)
            if highest and ids is None and choice:
                highest_ids, values = choice.top_k(current, highest)
                ids = np.sort(highest_ids[values > -np.inf]).astype(np.intp)
                current = current[ids]
                continue
            if ids is not None and not by_value:
                current, ids = spread(current, ids, size), None
            try:
                current = link.apply(current, history)
            except EdgeError:
                raise
            except Exception as error:  # a filter from outside must not take the server with it
                raise PluginError(name, f"{type(error).__name__}: {error}") from error
            current = _checked(name, current, size if ids is None else len(ids))
            if by_value:
                left = candidates(current)
                current, ids = current[left], left if ids is None else ids[left]
        if ids is None:
            ids = candidates(current)
            current = current[ids]
        if self.options.temperature == 0:
            return int(ids[current.argmax()])
        bounds = np.cumsum(softmax(current))
        place = np.searchsorted(bounds, self.rng.random() * bounds[-1], side="right")
        return int(ids[min(int(place), len(ids) - 1)])


def candidates(logits: NDArray[np.float32]) -> NDArray[np.intp]:
    """Ids (n,) of the tokens that no filter has given up yet, ascending."""
    return np.flatnonzero(logits > -np.inf)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities in double precision of logits (n,), of which at least one is finite."""
    weights = np.exp(logits.astype(np.float64) - float(logits.max()))
    total: NDArray[np.float64] = weights / weights.sum()
    return total


def keep(logits: NDArray[np.float32], ids: NDArray[np.intp]) -> NDArray[np.float32]:
    """Logits (vocab,) with all tokens but `ids` given up."""
    return spread(logits[ids], ids, len(logits))


def spread(logits: NDArray[np.float32], ids: NDArray[np.intp], size: int) -> NDArray[np.float32]:
    """Logits (size,) of which only those of `ids` aren't given up."""
    everybody = np.full(size, -np.inf, np.float32)
    everybody[ids] = logits
    return everybody


def _checked(name: str, logits: object, size: int) -> NDArray[np.float32]:
    """What a filter returned, as float32; raises PluginError if it isn't usable.

    One pass over the vocabulary: the maximum is NaN if any is, infinite if none is left.
    """
    if not isinstance(logits, np.ndarray) or logits.shape != (size,):
        shape = getattr(logits, "shape", type(logits).__name__)
        raise PluginError(name, f"returned {shape} in place of logits of shape ({size},)")
    if not np.issubdtype(logits.dtype, np.floating):
        raise PluginError(name, f"returned {logits.dtype} in place of floating-point logits")
    checked: NDArray[np.float32] = logits.astype(np.float32, copy=False)
    highest = checked.max()
    if highest == -np.inf:
        raise PluginError(name, "left no token to choose")
    if not np.isfinite(highest):
        raise PluginError(name, "returned logits that are not numbers")
    return checked
