"""Loading a model and using it from Python."""

from __future__ import annotations

import gc
import itertools
import mmap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import edgellm
from edgellm import checkpoint, cli, plugins, runtime
from edgellm.bundle import Bundle
from edgellm.bundle_writer import BundleWriter
from edgellm.checkpoint import Checkpoint
from edgellm.commands import host
from edgellm.errors import BackendError, ContextError, FitError, UsageError
from edgellm.executor import Executor, Target
from edgellm.graph import Buffer, StepGraph
from edgellm.hookspecs import hookimpl
from edgellm.keys import MAX_CONTEXT

MODELS = Path(__file__).parent / "data" / "models"

pytestmark = pytest.mark.usefixtures("cpu")


@pytest.fixture(scope="module")
def model() -> edgellm.Model:
    return edgellm.load(MODELS / "llama", exact=True, context=48)


def test_logits_are_one_row_a_token(model: edgellm.Model) -> None:
    reference = np.load(MODELS / "llama" / "reference.npz")
    found = model.logits(reference["tokens_2"])
    assert found.shape == (24, model.config.vocab)
    np.testing.assert_allclose(found, reference["logits_2"], atol=5e-4, rtol=0)


def test_greedy_pieces_are_the_reference_tokens(model: edgellm.Model) -> None:
    reference = np.load(MODELS / "llama" / "reference.npz")
    prompt, greedy = reference["tokens_1"].tolist(), reference["greedy"].tolist()
    pieces = list(model.generate(prompt, max_tokens=len(greedy) - len(prompt)))
    assert [piece.token for piece in pieces] == greedy[len(prompt) :]
    assert all(piece.done is None for piece in pieces[:-1])
    assert pieces[-1].done is not None
    assert pieces[-1].done.tokens == len(pieces)


def test_a_seed_repeats_its_text_and_another_differs(model: edgellm.Model) -> None:
    def text(seed: int) -> str:
        pieces = model.generate("ABC", max_tokens=16, temperature=1.5, seed=seed, top_k=0)
        return "".join(piece.text for piece in pieces)

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_bad_arguments_are_named(model: edgellm.Model) -> None:
    with pytest.raises(UsageError, match="temprature"):
        model.generate("A", temprature=1)
    with pytest.raises(ContextError, match="49 tokens"):
        model.logits([0] * 49)
    with pytest.raises(UsageError, match="64"):
        model.logits([64])
    with pytest.raises(UsageError, match="empty"):
        model.logits([])
    with pytest.raises(BackendError, match="abacus"):
        edgellm.load(MODELS / "llama", device="abacus")


class Abacus:
    """A backend plugin, as far as it needs to go; its bundles hold a graph that does nothing."""

    name = "abacus"

    def __init__(self, found: str | None, work: Callable[[], object]) -> None:
        self.found, self.work = found, work

    @hookimpl
    def edgellm_backend(self, device: str) -> Abacus | None:
        return self if device == "abacus" else None

    def probe(self) -> str | None:
        return self.found

    def target(self, name: str | None = None, board: str | None = None) -> Target:
        return Target("wood", "any")

    def lacks(self, target: Target) -> str | None:
        return None if target.name == "wood" else "this one is of wood"

    def compiler(self, target: Target) -> str:
        return "carpenter"

    def recipe(self) -> str:
        return ""

    def build(
        self, checkpoint: Checkpoint, target: Target, writer: BundleWriter, _: object
    ) -> None:
        config = checkpoint.config
        rows = Buffer("row", nbytes=4 * config.dim), Buffer("row", nbytes=4 * config.vocab)
        writer.graph(StepGraph(rows, body=(), head=(), hidden=0, logits=1))

    def open(self, bundle: Bundle, **_: object) -> Executor:
        assert bundle.target == Target("wood", "any")
        self.work()
        raise BackendError("the beads are stuck")


@pytest.mark.parametrize(
    ("found", "work", "error", "said"),
    [
        ("10 rods", lambda: None, BackendError, "the beads are stuck"),
        (None, lambda: pytest.fail("opened"), BackendError, "can't run here: it finds no 'abacus'"),
        ("10 rods", lambda: bytearray(1 << 60), FitError, "no memory left.*-c"),
        ("10 rods", lambda: mmap.mmap(-1, 1 << 60), FitError, "no memory left.*-c"),
        (
            "10 rods",
            lambda: Path("/nowhere").read_bytes(),
            BackendError,
            r"the backend 'abacus' failed \(FileNotFoundError: .*nowhere",
        ),
    ],
    ids=["stuck", "not found", "no memory", "no pages", "another error"],
)
def test_a_third_partys_backend_is_chosen_and_asked_whether_it_can_run(
    found: str | None, work: Callable[[], object], error: type[Exception], said: str
) -> None:
    manager = plugins.load("backend")
    manager.register(plugin := Abacus(found, work))
    try:
        for _ in range(2):  # builds, then uses the cache
            with pytest.raises(error, match=said):
                edgellm.load(device="abacus")
        options = cli.parser("run").parse_args(["run", "--device", "abacus"])
        with pytest.raises(error, match=said):
            host.load(options)
    finally:
        manager.unregister(plugin)


def test_what_callers_of_other_libraries_write_is_taken(model: edgellm.Model) -> None:
    def text(**options: object) -> str:
        return "".join(piece.text for piece in model.generate([1, 2, 3], 12, **options))

    assert text(stop=None, logit_bias={np.int64(5): 1.0}, top_k=-1) == text(logit_bias={5: 1.0})
    whole = text()
    assert text(stop=whole[2:4]) == whole.partition(whole[2:4])[0]
    pieces = list(model.generate([1, 2, 3], max_tokens=None))
    assert pieces[-1].done is not None
    for ids in ([1.5], [[1, 2]], ["a"]):
        with pytest.raises(UsageError, match="whole numbers"):
            model.logits(ids)


def test_a_closed_model_says_so() -> None:
    model = edgellm.load(MODELS / "llama")
    begun, unbegun = model.generate([1, 2]), model.generate([1, 2])
    next(begun)
    model.close()
    with pytest.raises(UsageError, match="closed; load it again"):
        model.logits([1])
    for answer in (begun, unbegun):
        with pytest.raises(UsageError, match="closed; load it again"):
            next(answer)


@pytest.mark.parametrize("options", [{"context": 1.5}, {"context": "x"}, {"slots": 0}])
def test_sizes_must_be_whole_numbers(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="give"):
        edgellm.load(MODELS / "llama", **options)


def test_a_longrope_model_takes_short_and_long_prompts_alike() -> None:
    """Its short factors up to the original context, the long ones beyond."""
    reference = np.load(MODELS / "phi3_longrope" / "reference.npz")
    with edgellm.load(MODELS / "phi3_longrope", exact=True) as model:
        assert model.executor.context == 32
        short = model.generate(reference["tokens_1"].tolist(), max_tokens=3)
        first = next(short)
        for index in (2, 3):
            found = model.logits(reference[f"tokens_{index}"])
            np.testing.assert_allclose(found, reference[f"logits_{index}"], atol=5e-4, rtol=0)
        assert model.executor.context == 64
        assert [first, *short][-1].done is not None


def test_a_context_that_was_asked_for_does_not_grow() -> None:
    with (
        edgellm.load(MODELS / "llama", context=4) as model,
        pytest.raises(ContextError, match="5 tokens"),
    ):
        model.logits([1] * 5)


@pytest.mark.parametrize(
    ("family", "asked", "found"),
    [("llama", None, 512), ("llama", 7, 7), ("gpt2", None, 64), ("phi4_mini", None, 32)],
)
def test_the_default_context(family: str, asked: int | None, found: int) -> None:
    assert runtime.context_for(checkpoint.open(MODELS / family), asked) == found


@pytest.mark.parametrize(
    ("family", "asked"), [("gpt2", 65), ("llama", 0), ("llama", MAX_CONTEXT + 1)]
)
def test_an_impossible_context_is_refused(family: str, asked: int) -> None:
    with pytest.raises(UsageError, match=f"a context of {asked} tokens"):
        runtime.context_for(checkpoint.open(MODELS / family), asked)


@pytest.mark.parametrize(
    ("prompt", "steps", "file"),
    [("", 256, "greedy_256.txt"), ("Lily and Tom went to the park", 128, "greedy_128_lily.txt")],
)
def test_a_trained_model_writes_what_llama2_c_does(
    shared: Path, prompt: str, steps: int, file: str
) -> None:
    folder = shared / "stories260k"
    with edgellm.load(folder / "stories260K.gguf", exact=True, context=256) as stories:
        ids = stories.tokenizer.encode(prompt, add_special=True)
        # llama2.c counts positions, the prompt's included, but for the first.
        pieces = stories.generate(ids, max_tokens=steps - len(ids) + 1)
        text = prompt + "".join(piece.text for piece in pieces)
    assert text + "\n" == (folder / file).read_text()


def test_answers_that_take_turns_are_those_that_run_alone(model: edgellm.Model) -> None:
    def alone(prompt: list[int]) -> list[int | None]:
        return [piece.token for piece in model.generate(prompt, max_tokens=10)]

    prompts = [1, 2, 3], [9, 8, 7, 6]
    expected = [alone(prompt) for prompt in prompts]
    answers = [model.generate(prompt, max_tokens=10) for prompt in prompts]
    found: list[list[int | None]] = [[], []]
    for _ in range(10):
        for tokens, answer in zip(found, answers, strict=True):
            tokens += [piece.token for piece in itertools.islice(answer, 1)]
        model.logits([5, 5])
    assert found == expected


def test_a_prompt_that_begins_with_bos_gets_no_second(shared: Path) -> None:
    tokenizer = edgellm.load_tokenizer(shared / "vocab" / "ggml-vocab-llama-spm.gguf")
    from edgellm.tokenizer import prompt_ids

    assert prompt_ids(tokenizer, "<s>Hello") == [tokenizer.bos, *prompt_ids(tokenizer, "Hello")[1:]]
    assert prompt_ids(tokenizer, "Hello")[0] == tokenizer.bos


def test_an_executor_outlives_its_model() -> None:

    executor = edgellm.load(MODELS / "llama", context=64).executor
    gc.collect()
    assert np.isfinite(executor.step([1], [0], [0])).all()
    executor.close()


def test_threads_that_share_a_model_get_what_each_would_alone() -> None:
    with edgellm.load(MODELS / "llama", context=48) as model:
        prompts = [[1, 2, 3], [4, 5], [6, 7, 8, 9], [10]]

        def tokens(prompt: list[int]) -> list[int | None]:
            return [piece.token for piece in model.generate(prompt, max_tokens=30)]

        alone = [tokens(prompt) for prompt in prompts]
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(tokens, prompts)) == alone
