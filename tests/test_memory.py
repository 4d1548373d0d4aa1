"""edgellm/memory.py: the estimate, what really is allocated, and what comes of too little."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import edgellm
from edgellm import checkpoint, memory
from edgellm.errors import FitError

MODELS = Path(__file__).parent / "data" / "models"

LOAD = """
import sys, edgellm
from tinygrad.helpers import GlobalCounters
with edgellm.load(sys.argv[1], context=8192, slots=3, exact=True) as model:
    print(GlobalCounters.mem_used)
"""


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("family", ["lfm2", "gemma2"])
def test_as_much_is_allocated_as_was_foretold(family: str) -> None:
    path = MODELS / family
    done = subprocess.run(
        [sys.executable, "-c", LOAD, path], capture_output=True, text=True, check=True
    )
    opened = checkpoint.open(path)
    foretold = memory.needed(opened, 8192, slots=3) - memory.RUNTIME_BYTES
    assert int(done.stdout) == pytest.approx(foretold, rel=0.1)


def test_slots_and_positions_cost_what_the_layers_remember() -> None:
    opened = checkpoint.open(MODELS / "lfm2")
    config = replace(opened.config, dim=48)  # else no wider than what attention remembers
    widths = [48 if layer.kind == "conv" else 32 for layer in config.layers]
    assert sorted(widths) == [32, 48, 48]
    opened = replace(opened, config=config)
    one, two = (memory.needed(opened, 4096, slots) for slots in (1, 2))
    assert two - one == sum(widths) * (4096 + 32) * 4


def test_a_large_tensor_counts_while_it_is_loaded() -> None:
    """One context of one token leaves nothing but the weights."""
    opened = checkpoint.open(MODELS / "llama")
    values = sum(math.prod(tensor.shape) for tensor in opened.tensors.values())
    assert memory.needed(opened, 1) > memory.RUNTIME_BYTES + 4 * values


def test_a_model_that_does_not_fit_is_refused_before_anything_is_allocated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = checkpoint.open(MODELS / "llama")
    need = memory.needed(opened, 256, slots=2)
    monkeypatch.setattr(memory, "physical", lambda: need)
    memory.check(opened, 256, slots=2)
    monkeypatch.setattr(memory, "physical", lambda: None)
    memory.check(opened, 1 << 27, slots=2)
    monkeypatch.setattr(memory, "physical", lambda: need - 1)
    said = f"needs about {memory.size(need)} with 2 contexts of 256 tokens, this machine has .*-c"
    with pytest.raises(FitError, match=said):
        memory.check(opened, 256, slots=2)
    monkeypatch.setattr(memory, "physical", lambda: memory.BUNDLE_BYTES)
    for exact in (False, True):
        with pytest.raises(FitError, match="with 2 contexts of 256 tokens"):
            edgellm.load(MODELS / "llama", exact, context=256, slots=2)


def test_the_machines_memory_is_known_here() -> None:
    assert memory.physical() is None or memory.physical() > 64 << 20


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1536, "1.5 KiB"),
        (5 << 20, "5.0 MiB"),
        (3 << 29, "1.5 GiB"),
    ],
)
def test_sizes_for_people(count: int, shown: str) -> None:
    assert memory.size(count) == shown
