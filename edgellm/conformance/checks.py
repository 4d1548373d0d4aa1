"""The checks that a backend goes through, in order: right numbers, then the other promises."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import numpy as np

from edgellm.conformance import models, promises
from edgellm.conformance.workbench import (
    COARSE,
    CONTEXT,
    TOLERANCE,
    Fault,
    Workbench,
    judge,
    prompt,
    sound,
)
from edgellm.errors import UsageError
from edgellm.executor import KV


@dataclass(frozen=True)
class Check:
    name: str
    run: Callable[[Workbench], str]
    """Returns what was found, in words. Raises Fault, or UnsupportedError for a model that the
    backend declines."""
    quick: bool = True
    """Whether it is among those of --quick."""


def family(name: str, bench: Workbench) -> str:
    """A prompt at once, and again with its end token by token."""
    tokens, at = prompt(CONTEXT - 8), CONTEXT - 16
    with bench.open(name) as executor:
        worst = judge(name, tokens, executor.prefill(tokens, 0, 0, every=True))
        found = [sound(executor.prefill(tokens[:at], 1, 0, every=True), at)]
        for place in range(at, len(tokens)):
            found.append(sound(executor.step([tokens[place]], [1], [place]), 1))
        worst = max(worst, judge(name, tokens, np.concatenate(found)))
    return f"within {worst:.3%} of the logits' range"


def weights(kind: str, bench: Workbench) -> str:
    """A model in one type."""
    tokens = prompt(24)
    tolerance = TOLERANCE if kind in models.FLOATS else COARSE
    with bench.open(kind) as executor:
        worst = judge(kind, tokens, executor.prefill(tokens, 0, 0, every=True), tolerance)
    return f"within {worst:.3%} of the logits' range"


def keys_and_values(bench: Workbench) -> str:
    """Each way to keep them is right, or declined by a UsageError."""
    tokens, had = prompt(40), []
    for kind in get_args(KV):
        try:
            executor = bench.opened(bench.usual, kv=kind)
        except UsageError:
            continue
        found = executor.prefill(tokens, 0, 0, every=True)
        worst = judge(bench.usual, tokens, found, COARSE if kind == "int8" else TOLERANCE)
        executor.close()
        had.append(f"{kind} within {worst:.3%}")
    if not had:
        raise Fault(f"keys and values can be kept in none of {', '.join(get_args(KV))}")
    return ", ".join(had)


QUICK = {"llama", "gpt2", "gemma3", "lfm2", "F16", "Q8_0", "Q4_0", "Q4_K"}

CHECKS = (
    Check("shapes", promises.shapes),
    *(
        Check(f"family {name}", functools.partial(family, name), name in QUICK)
        for name in models.FAMILIES
    ),
    *(
        Check(f"type {kind}", functools.partial(weights, kind), kind in QUICK)
        for kind in models.TYPES
    ),
    Check("keys and values", keys_and_values),
    Check("positions", promises.positions),
    Check("slots", promises.slots),
    Check("forgetting", promises.forgetting),
    Check("copies", promises.copies),
    Check("batching", promises.batching),
    Check("determinism", promises.determinism),
    Check("context's end", promises.context_end),
    Check("errors", promises.errors),
    Check("cancel", promises.cancelling),
    Check("threads", promises.other_threads),
    Check("serving", promises.serving),
    Check("closing", promises.closing),
    Check("memory", promises.growth),
)
