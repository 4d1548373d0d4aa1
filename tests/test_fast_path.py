"""Bundles against exact arithmetic: how close they come, and that rows are computed apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import typed_models
from device_models import assert_rows_are_apart
from numpy.typing import NDArray

import edgellm
from edgellm import bundle_builder, checkpoint, gguf, packing, quant, runtime, tokenizer
from edgellm.executor import KV, Executor
from edgellm.key_folder import KeyFolder
from edgellm.tensor import MappedTensor

Array = NDArray[np.float32]

MODELS = Path(__file__).parent / "data" / "models"
FAMILIES = sorted(folder.name for folder in MODELS.iterdir())
CONFIDENT, AGREEMENT, ERROR = 0.05, 0.97, 0.04
"""Margins and errors are shares of a position's range of logits."""
FLOATS = ("F32", "F16", "BF16")
LICENCE = Path(__file__).parents[1] / "LICENSE"
WINDOW = 128
"""Tokens of a text that are read at once; stories260K was trained with so many."""

pytestmark = pytest.mark.usefixtures("cpu")


def fast(path: Path, kv: KV = "f16", threads: int = 2, context: int = 128) -> Executor:
    return edgellm.load(path, context=context, slots=3, kv=kv, threads=threads).executor


def built(path: Path) -> Path:
    """The bundle of a model beside it; the cache is for models that stay."""
    backend, out = runtime.backend("cpu"), path.with_suffix(".edge")
    bundle_builder.build(checkpoint.open(path), out, backend, backend.target(), KeyFolder())
    return out


def assert_close(found: Array, exact: Array) -> None:
    extent = np.ptp(exact, axis=1)
    runner_up, best = np.sort(exact, axis=1)[:, -2:].T
    confident = best - runner_up > CONFIDENT * extent
    agreeing = exact.argmax(axis=1) == found.argmax(axis=1)
    assert agreeing[confident].mean() >= AGREEMENT
    assert (np.abs(found - exact).max(axis=1) / extent).max() <= ERROR


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family(name: str) -> None:
    folder = MODELS / name
    path = next(folder.glob("*.gguf"), folder)
    reference = np.load(folder / "reference.npz")
    # Where a model stretches positions beyond a length, there is a fourth prompt for it.
    for index, context in ((2, 32), (3, 64)):
        if f"tokens_{index}" in reference:
            tokens = reference[f"tokens_{index}"].tolist()
            run = fast(path, context=context)
            every = run.prefill(tokens, 0, 0, every=True)
            assert_close(every, reference[f"logits_{index}"])
            assert_rows_are_apart(run, tokens, every)


@pytest.mark.parametrize(("kv", "threads"), [("f16", 1), ("int8", 1), ("int8", 2)])
@pytest.mark.parametrize("name", ["gemma3", "gpt2", "lfm2", "qwen3"])
def test_rows_are_apart(name: str, kv: KV, threads: int) -> None:
    tokens = np.load(MODELS / name / "reference.npz")["tokens_2"].tolist()
    run = fast(MODELS / name / "model.gguf", kv, threads, context=64)
    every = run.prefill(tokens, 0, 0, every=True)
    np.testing.assert_array_equal(
        every, fast(MODELS / name / "model.gguf", kv, 3 - threads, 64).prefill(tokens, 0, 0, True)
    )
    assert_rows_are_apart(run, tokens, every)


def test_every_type_in_a_small_model(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    typed_models.write(path, typed_models.TYPES)
    tokens = list(range(7, 107))
    with edgellm.load(path, exact=True, context=128) as model:
        exact = model.logits(tokens)
    assert_close(fast(built(path)).prefill(tokens, 0, 0, every=True), exact)


@pytest.mark.parametrize("kind", [kind for kind in typed_models.TYPES if kind not in FLOATS])
def test_a_type_in_integers(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a large model; in floats the same model is as good as exact."""
    tokens = list(range(7, 107))
    found = []
    for name, small in (("floats", packing.SMALL), ("integers", 0)):
        path = tmp_path / f"{name}.gguf"
        typed_models.write(path, [kind])
        monkeypatch.setattr(packing, "SMALL", small)
        run = fast(built(path))
        found.append(run.prefill(tokens, 0, 0, every=True))
    assert (found[0] != found[1]).any()
    assert_close(found[1], found[0])
    assert_rows_are_apart(run, tokens, found[1])


@pytest.fixture
def stories(shared: Path) -> Path:
    return shared / "stories260k"


@pytest.mark.parametrize(
    ("prompt", "steps", "file"),
    [("", 256, "greedy_256.txt"), ("Lily and Tom went to the park", 128, "greedy_128_lily.txt")],
)
def test_a_trained_model_writes_what_llama2_c_does(
    stories: Path, prompt: str, steps: int, file: str
) -> None:
    with edgellm.load(stories / "stories260K.gguf", context=256) as model:
        ids = model.tokenizer.encode(prompt, add_special=True)
        pieces = model.generate(ids, max_tokens=steps - len(ids) + 1)
        text = prompt + "".join(piece.text for piece in pieces)
    assert text + "\n" == (stories / file).read_text()


def perplexity(run: Executor, windows: Sequence[Sequence[int]]) -> float:
    surprises = []
    for window in windows:
        logits = run.prefill(window, 0, 0, every=True)[:-1].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        chosen = np.take_along_axis(logits, np.array(window)[1:, None], axis=1)[:, 0]
        surprises += [*np.log(np.exp(logits).sum(axis=1)) - chosen]
    return float(np.exp(np.mean(surprises)))


def quantised(source: Path, path: Path, kind: str) -> None:
    """A copy with its matrices in another type, as far as their rows are whole blocks."""
    opened = gguf.read(source)
    tensors: dict[str, MappedTensor] = dict(opened.tensors)
    for name, tensor in opened.tensors.items():
        fits = tensor.shape[-1] % quant.TYPES[kind].values == 0
        if len(tensor.shape) == 2 and fits:
            data = quant.quantise(kind, tensor.float32()).data
            tensors[name] = MappedTensor(name, tensor.shape, kind, data)
    gguf.write(path, opened.metadata, tensors)


def windows(path: Path, text: str) -> list[list[int]]:
    data = checkpoint.open(path).tokenizer
    assert data is not None
    words = tokenizer.make(data)
    assert words.bos is not None
    ids = words.encode(text)
    return [[words.bos, *ids[at : at + WINDOW - 1]] for at in range(0, len(ids), WINDOW - 1)]


@pytest.mark.parametrize("kind", ["Q8_0", "F16"])
def test_perplexity_of_a_trained_model(
    stories: Path, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"
    quantised(stories / "stories260K.gguf", path, kind)
    floats = built(path).rename(tmp_path / "floats.edge")
    monkeypatch.setattr(packing, "SMALL", 0)
    integers = built(path)  # as in a large model
    exact = edgellm.load(path, exact=True, context=WINDOW).executor
    texts = [(stories / name).read_text() for name in ("greedy_256.txt", "greedy_128_lily.txt")]
    for text in (*texts, LICENCE.read_text()):
        parts = windows(path, text)
        expected = perplexity(exact, parts)
        for bundle in (floats, integers):
            assert perplexity(fast(bundle), parts) == pytest.approx(expected, rel=0.01)
        assert perplexity(fast(floats, "int8"), parts) < 1.005 * expected
