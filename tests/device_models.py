"""What tests of several backends share: models, what they must come close to, and rows apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgellm import bundle_builder, checkpoint, runtime
from edgellm.bundle import Bundle
from edgellm.bundle import open as open_bundle
from edgellm.executor import Executor
from edgellm.key_folder import KeyFolder

Array = NDArray[np.float32]

MODELS = Path(__file__).parent / "data" / "models"
FAMILIES = sorted(folder.name for folder in MODELS.iterdir())
SHARED_FAMILIES = (
    *("cerebras_gpt", "dolly2_gptneox", "falcon_7b", "gemma3", "llama1", "llama32_tied"),
    *("phi3_4k", "qwen2", "qwen3", "smollm2", "stablelm2_1_6b", "stablelm_3b", "tinyllama_gqa"),
)
"""Of the reference data beside the project."""
CLOSE = 5e-4
"""How far logits may be from those of exact arithmetic."""


def family(name: str) -> Path:
    """The model of a family."""
    folder = MODELS / name
    return next(folder.glob("*.gguf"), folder)


def prompts(name: str) -> list[tuple[list[int], Array, int]]:
    """Of a family: tokens, their reference logits, and the context to run them in."""
    reference = np.load(MODELS / name / "reference.npz")
    # Where a model stretches positions beyond a length, there is a fourth prompt for it.
    return [
        (reference[f"tokens_{index}"].tolist(), reference[f"logits_{index}"], context)
        for index, context in ((2, 32), (3, 64))
        if f"tokens_{index}" in reference
    ]


def assert_close_to_the_fixture(run: Executor, folder: Path) -> None:
    """Whether logits are those of a folder of the shared fixtures."""
    reference = np.load(folder / "hf_ref.npz")
    for index in range(4):
        tokens = reference[f"tokens_{index}"].tolist()
        found = run.prefill(tokens, index % run.slots, 0, every=True)
        np.testing.assert_allclose(found, reference[f"logits_{index}"], rtol=0, atol=CLOSE)


def built(path: Path, out: Path, device: str, target: str | None = None) -> Bundle:
    """A model's bundle; the cache is for models that stay."""
    backend = runtime.backend(device, here=False)
    bundle_builder.build(checkpoint.open(path), out, backend, backend.target(target), KeyFolder())
    return open_bundle(out)


def assert_rows_are_apart(run: Executor, tokens: Sequence[int], every: Array) -> None:
    """Whether rows come one by one, some at a time or beside others changes no bit."""
    single = [run.step([token], [1], [at])[0] for at, token in enumerate(tokens)]
    np.testing.assert_array_equal(single, every)
    at = len(tokens) // 3
    run.prefill(tokens[:at], 0, 0)
    np.testing.assert_array_equal(run.prefill(tokens[at:], 0, at, every=True), every[at:])
    run.prefill(tokens[: at - 1], 2, 0)
    mixed = [(0, at), *((1, place) for place in range(at)), (2, at - 1), (2, at)]
    slots, places = zip(*mixed, strict=True)
    found = run.run([tokens[place] for place in places], slots, places, range(len(mixed)))
    np.testing.assert_array_equal(found, every[list(places)])
