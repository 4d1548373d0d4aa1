"""Models that run with adapters, in both modes, against the same with the adapters in their
weights."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from random_adapters import random_adapter
from tinygrad import Tensor

import edgellm
from edgellm import adapter, checkpoint, runtime
from edgellm.adapter import Adapter
from edgellm.checkpoint import Checkpoint, ModelFile
from edgellm.errors import UsageError
from edgellm.model import Transformer

MODELS = Path(__file__).parent / "data" / "models"
SAVED = Path(__file__).parent / "data" / "adapters"
TOKENS = [5, 9, 3, 44, 17, 2, 60, 31, 8, 25]


def adapters(base: ModelFile) -> dict[str, Adapter]:
    return {name: random_adapter(base, name, seed=seed, size=0.3) for seed, name in enumerate("ab")}


def written(folder: Path, model: Path) -> list[Path]:
    """The files of two adapters for a model."""
    base = checkpoint.open(model)
    paths = []
    for name, made in adapters(base).items():
        paths.append(folder / f"{name}.gguf")
        adapter.write_gguf(paths[-1], made, base)
    return paths


@functools.cache
def expected(family: str, names: str) -> np.ndarray:
    """Of the model with those of its adapters in its weights."""
    base = checkpoint.open(MODELS / family)
    return merged(base, [adapters(base)[name] for name in names], TOKENS)


def merged(base: Checkpoint, chosen: Sequence[Adapter], tokens: Sequence[int]) -> np.ndarray:
    weights = {}
    for name, tensor in base.tensors.items():
        changes = (each.matrices[name].change() for each in chosen if name in each.matrices)
        weights[name] = Tensor(sum(changes, start=tensor.float32()))
    transformer = Transformer(base.config, weights, len(tokens))
    return transformer.logits(transformer.hidden(Tensor([list(tokens)])))[0].numpy()


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("name", sorted(folder.name for folder in SAVED.iterdir()))
def test_what_peft_has_saved_gives_the_logits_that_peft_computes(name: str) -> None:
    base = checkpoint.open(MODELS / name.partition("-")[0])
    reference = np.load(SAVED / name / "logits.npz")
    found = merged(base, [adapter.read(SAVED / name, base)], reference["tokens"].tolist())
    np.testing.assert_allclose(found, reference["logits"], atol=1e-4)


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize(
    ("family", "exact"),
    [("llama", False), ("llama", True), ("gpt_neox", False), ("lfm2", False), ("gpt2", True)],
)
def test_an_adapter_does_what_its_merged_weights_do(
    family: str, exact: bool, tmp_path: Path
) -> None:
    paths = written(tmp_path, MODELS / family)
    with edgellm.load(MODELS / family, exact=exact, context=64, adapters=paths) as loaded:
        assert list(loaded.adapters) == ["a", "b"]
        for choice, names in (("a", "a"), (None, "ab")):
            wanted = expected(family, names)
            tolerance = (1e-5 if exact else 2e-3) * np.abs(wanted).max()
            np.testing.assert_allclose(loaded.logits(TOKENS, choice), wanted, atol=tolerance)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> runtime.Model:
    model = MODELS / "llama"
    paths = written(tmp_path_factory.mktemp("adapters"), model)
    return edgellm.load(model, context=64, slots=3, threads=2, adapters=paths)


def test_rows_of_different_adapters_share_a_step_without_a_trace(adapted: runtime.Model) -> None:
    executor, choices = adapted.executor, [(1.0, 0.0), (0.0, 0.5), (0.0, 0.0)]
    alone = []
    for strengths in choices:
        executor.adapt(1, strengths)
        alone.append(executor.prefill(TOKENS, 1, 0, every=True))
    for slot, strengths in enumerate(choices):
        executor.adapt(slot, strengths)
    count = len(TOKENS)
    together = executor.run(
        TOKENS * 3,
        [row // count for row in range(3 * count)],
        [*range(count)] * 3,
        range(3 * count),
    )
    np.testing.assert_array_equal(together, np.concatenate(alone))
    # Not all rows' logits: then the head has other rows than the body.
    wanted = [4, count + 7, 2 * count + 9]
    some = executor.run(
        TOKENS * 3, [row // count for row in range(3 * count)], [*range(count)] * 3, wanted
    )
    np.testing.assert_array_equal(some, np.concatenate(alone)[wanted])


def test_without_an_adapter_results_are_those_of_the_model_alone(adapted: runtime.Model) -> None:
    with edgellm.load(MODELS / "llama", context=64) as plain:
        np.testing.assert_array_equal(adapted.logits(TOKENS, "none"), plain.logits(TOKENS))


def test_other_adapters_that_are_loaded_leave_no_trace(
    adapted: runtime.Model, tmp_path: Path
) -> None:
    model = MODELS / "llama"
    with edgellm.load(model, context=64, adapters=written(tmp_path, model)[1:]) as one:
        np.testing.assert_array_equal(adapted.logits(TOKENS, "b"), one.logits(TOKENS))


def test_strengths_are_given_to_a_file_or_to_an_answer(
    adapted: runtime.Model, tmp_path: Path
) -> None:
    model = MODELS / "llama"
    path = written(tmp_path, model)[0]
    with edgellm.load(model, context=64, adapters=[f"{path}:0.5"]) as half:
        wanted = half.logits(TOKENS)
    np.testing.assert_allclose(adapted.logits(TOKENS, "a:0.5"), wanted, atol=1e-4)


def test_answers_with_different_adapters_take_turns(adapted: runtime.Model) -> None:
    def text(choice: str) -> list[int | None]:
        pieces = adapted.generate(TOKENS, 12, temperature=0.8, seed=3, adapter=choice)
        return [piece.token for piece in pieces]

    alone = [text("a"), text("b"), text("none")]
    answers = [
        adapted.generate(TOKENS, 12, temperature=0.8, seed=3, adapter=choice)
        for choice in ("a", "b", "none")
    ]
    mixed = list(zip(*([piece.token for piece in pieces] for pieces in answers), strict=False))
    turns = [list(tokens) for tokens in zip(*mixed, strict=True)]
    assert [tokens[: len(turn)] for tokens, turn in zip(alone, turns, strict=True)] == turns
    assert len({tuple(tokens) for tokens in alone}) == 3


@pytest.mark.parametrize(
    ("choice", "message"),
    [("c", "no adapter is called 'c'; there are a, b"), ("a:inf", "a strength is a number")],
)
def test_a_choice_that_cant_be_made_is_refused(
    choice: str, message: str, adapted: runtime.Model
) -> None:
    with pytest.raises(UsageError, match=message):
        adapted.logits(TOKENS, choice)
    with pytest.raises(UsageError, match=message):
        adapted.generate(TOKENS, adapter=choice)


def test_two_adapters_of_one_name_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, MODELS / "llama")[0]
    with pytest.raises(UsageError, match="'a' is taken"):
        edgellm.load(MODELS / "llama", adapters=[path, path])
