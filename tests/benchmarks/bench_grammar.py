"""Hot path: while a model writes a call, each token waits for the mask of what is allowed."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from letters import Letters
from pytest_benchmark.fixture import BenchmarkFixture

from edgellm.sampling import Sampler, Sampling
from edgellm.tools.grammar import Grammars, Guide

SIZE = 128_000
SCHEMA = {
    "type": "object",
    "properties": {
        "speed": {"type": "integer", "minimum": 0, "maximum": 100},
        "mode": {"enum": ["auto", "manual", "off"]},
        "note": {"type": "string", "maxLength": 200},
    },
    "required": ["speed", "mode", "note"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def letters() -> Letters:
    """All bytes, and words as vocabularies have them: many begin with a space, few have signs."""
    rng = random.Random(0)
    words = {bytes([byte]) for byte in range(256)}
    while len(words) < SIZE - 1:
        letters = rng.choices("etaoinshrdlucmfwypvbgkjqxz", k=rng.randint(2, 10))
        begin = rng.choice(["", " ", " ", " ", "ü", "温", "_", '"', "\n", "."])
        words.add((begin + "".join(letters)).encode())
    return Letters(sorted(words), frozenset({SIZE - 1}), end=SIZE - 1)


def test_making_ready_for_a_vocabulary(benchmark: BenchmarkFixture, letters: Letters) -> None:
    benchmark.pedantic(lambda: Grammars(letters).words(), rounds=3)


def test_compiling_a_schema(benchmark: BenchmarkFixture, letters: Letters) -> None:
    grammars, numbers = Grammars(letters), itertools.count()
    grammars.words()
    # One that was compiled lately is kept.
    benchmark(lambda: grammars.of_schema({**SCHEMA, "title": str(next(numbers))}).matcher())


@pytest.mark.parametrize("chain", ["greedy", "default"])
def test_one_token_of_a_call(benchmark: BenchmarkFixture, letters: Letters, chain: str) -> None:
    """The mask, its application and going on, without the sampler: for each token of answers that
    a model with random weights writes; so the mean is that of an answer."""
    grammar = Grammars(letters).of_schema(SCHEMA)
    grammar.matcher()
    rng = np.random.default_rng(0)
    logits = rng.normal(size=SIZE).astype(np.float32)
    sampler = Sampler(Sampling(temperature=float(chain != "greedy"), seed=1))
    state: list[Guide] = [grammar.guide()]

    def prepare() -> tuple[tuple[Guide, int], dict[str, object]]:
        if state[0].done:
            state[0] = grammar.guide()
        rng.shuffle(logits)
        # What is allowed after this token is asked for anew below, as for the model's next one.
        token = sampler.sample(state[0].mask(logits), [])
        return (state[0], token), {}

    def step(guide: Guide, token: int) -> None:
        guide.accept(token)
        if not guide.done:
            guide.mask(logits)

    benchmark.pedantic(step, setup=prepare, rounds=1000)
