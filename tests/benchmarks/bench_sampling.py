"""Hot path: between the logits of one token and the next step stands the whole sampler chain."""

from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from edgellm.sampling import Sampler, Sampling

CHAINS = {
    "greedy": Sampling(temperature=0),
    "default": Sampling(seed=1),
    "penalties": Sampling(seed=1, repeat_penalty=1.1, presence_penalty=0.1),
    "dry": Sampling(seed=1, dry_multiplier=0.8),
    "mirostat": Sampling(seed=1, mirostat=2),
}


@pytest.mark.parametrize("vocabulary", [32_000, 151_936], ids=["32k", "152k"])
@pytest.mark.parametrize("chain", CHAINS)
def test_one_token(benchmark: BenchmarkFixture, chain: str, vocabulary: int) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, vocabulary).astype(np.float32)
    history = random.integers(0, vocabulary, 512).tolist()
    benchmark(Sampler(CHAINS[chain]).sample, logits, history)
