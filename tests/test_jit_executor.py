"""The executor's promises: chunks, slots and neighbours never change a result."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgellm import checkpoint
from edgellm.executor import Executor
from edgellm.tensor import MappedTensor

MODELS = Path(__file__).parent / "data" / "models"
GGUF = sorted(folder.name for folder in MODELS.iterdir() if (folder / "model.gguf").exists())
TOLERANCE = 5e-4
QUANT = ["Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16", "BF16"]

pytestmark = pytest.mark.usefixtures("cpu")


def executor(path: Path, context: int = 32, slots: int = 1, chunk: int = 8) -> Executor:
    from edgellm.jit_executor import JitExecutor

    return JitExecutor(checkpoint.open(path), context, slots, chunk=chunk)


@pytest.fixture(scope="module")
def small() -> Executor:
    return executor(MODELS / "llama" / "model.gguf", slots=3)


@pytest.mark.parametrize("family", GGUF)
def test_a_family_in_chunks_and_token_by_token(family: str) -> None:
    path = MODELS / family
    reference = np.load(path / "reference.npz")
    run = executor(path / "model.gguf")
    tokens, wanted = reference["tokens_2"].tolist(), reference["logits_2"]

    chunks = run.prefill(tokens, 0, 0, every=True)
    np.testing.assert_allclose(chunks, wanted, atol=TOLERANCE, rtol=0)
    single = [run.step([token], [0], [at])[0] for at, token in enumerate(tokens)]
    np.testing.assert_allclose(single, wanted, atol=TOLERANCE, rtol=0)

    greedy = reference["greedy"].tolist()
    prompt = reference["tokens_1"].tolist()
    assert greedy[: len(prompt)] == prompt
    following = run.prefill(prompt, 0, 0)
    for at in range(len(prompt), len(greedy)):
        assert int(following.argmax()) == greedy[at]
        following = run.step([greedy[at]], [0], [at])[0]


def test_the_last_row_is_that_of_every(small: Executor) -> None:
    tokens = list(range(1, 22))
    every = small.prefill(tokens, 0, 0, every=True)
    assert every.shape == (21, small.config.vocab)
    assert every.dtype == np.float32
    np.testing.assert_allclose(small.prefill(tokens, 1, 0), every[-1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("cut", [1, 2, 7, 8, 9, 16, 20])
def test_where_a_prompt_is_cut_changes_nothing(small: Executor, cut: int) -> None:
    tokens = list(range(1, 22))
    whole = small.prefill(tokens, 0, 0)
    small.prefill(tokens[:cut], 1, 0)
    np.testing.assert_allclose(small.prefill(tokens[cut:], 1, cut), whole, atol=1e-5, rtol=0)


def test_slots_are_apart_and_a_batch_is_its_parts(small: Executor) -> None:
    prompts = [[1, 2, 3], [40, 41, 42, 43, 44, 45, 46, 47, 48], [7]]
    for slot, prompt in enumerate(prompts):
        small.prefill(prompt, slot, 0)
    ends = [len(prompt) for prompt in prompts]
    together = small.step([10, 20, 30], [0, 1, 2], ends)
    for slot in (2, 0, 1):
        alone = small.step([10 * (slot + 1)], [slot], [ends[slot]])[0]
        np.testing.assert_array_equal(alone, together[slot])


def test_a_slot_used_again_remembers_nothing(small: Executor) -> None:
    fresh = small.prefill([5, 6, 7], 0, 0)
    small.prefill(list(range(32)), 0, 0)
    np.testing.assert_array_equal(small.prefill([5, 6, 7], 0, 0), fresh)


def test_going_back_forgets_what_came_later(small: Executor) -> None:
    small.prefill([1, 2, 3, 4, 5, 6], 0, 0)
    back = small.step([9], [0], [3])[0]
    small.prefill([1, 2, 3], 1, 0)
    np.testing.assert_allclose(small.step([9], [1], [3])[0], back, atol=1e-5, rtol=0)


def test_a_copied_prefix_goes_on_as_the_original(small: Executor) -> None:
    small.prefill([3, 1, 4, 1, 5, 9, 2, 6], 0, 0)
    small.prefill(list(range(20)), 2, 0)
    small.copy(0, 2, 5)
    there = small.step([8], [2], [5])[0]
    here = small.step([8], [0], [5])[0]
    np.testing.assert_array_equal(there, here)


@pytest.mark.parametrize(("source", "target", "length"), [(0, 2, 30), (2, 1, 8), (1, 0, 17)])
def test_copies_of_any_length_between_any_slots(
    small: Executor, source: int, target: int, length: int
) -> None:
    small.prefill(list(range(source, source + 31)), source, 0)
    small.copy(source, target, length)
    there = small.step([8], [target], [length])[0]
    np.testing.assert_array_equal(there, small.step([8], [source], [length])[0])


def test_the_context_is_used_to_its_end_and_no_further(small: Executor) -> None:
    tokens = [token % 60 for token in range(32)]
    whole = small.prefill(tokens, 0, 0)
    small.prefill(tokens[:31], 0, 0)
    np.testing.assert_allclose(small.step([tokens[31]], [0], [31])[0], whole, atol=1e-5, rtol=0)
    for too_many in ([0] * 33, []):
        with pytest.raises(ValueError, match="in a context of 32"):
            small.prefill(too_many, 0, 0)
    with pytest.raises(ValueError, match="in a context of 32"):
        small.step([0], [0], [32])


def test_it_runs_in_another_thread_than_it_was_made_in(small: Executor) -> None:
    here = small.prefill([1, 2, 3], 0, 0)
    there: list[np.ndarray] = []
    worker = threading.Thread(target=lambda: there.append(small.prefill([1, 2, 3], 0, 0)))
    worker.start()
    worker.join()
    np.testing.assert_array_equal(there[0], here)


def test_progress_is_told() -> None:
    from edgellm.jit_executor import JitExecutor

    told: list[tuple[str, int, int]] = []
    opened = checkpoint.open(MODELS / "llama" / "model.gguf")
    JitExecutor(opened, 32, 1, 8, lambda *event: told.append(event)).close()
    assert {what for what, _, _ in told} == {"loading", "compiling"}
    for what in ("loading", "compiling"):
        steps = [(done, total) for word, done, total in told if word == what]
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1]


def test_a_matrix_with_a_factor(small: Executor) -> None:
    from edgellm.jit_executor import JitExecutor

    opened = checkpoint.open(MODELS / "llama" / "model.gguf")
    name = "blk.0.attn_q.scale"
    for shape in ((), (1,)):
        one = MappedTensor(name, shape, "F32", memoryview(np.float32(1).tobytes()))
        run = JitExecutor(replace(opened, tensors={**opened.tensors, name: one}), 32, 1, 8)
        np.testing.assert_allclose(
            run.prefill([1, 2], 0, 0), small.prefill([1, 2], 0, 0), atol=1e-5
        )
        run.close()


def test_closing_twice_is_harmless() -> None:
    run = executor(MODELS / "llama" / "model.gguf")
    run.close()
    run.close()


@pytest.mark.parametrize("kind", QUANT)
def test_quantised_files_match_their_dequantised_forward(shared: Path, kind: str) -> None:
    reference = np.load(shared / "quant" / f"llama-{kind}.npz")
    run = executor(shared / "quant" / f"llama-{kind}.gguf", context=64, chunk=16)
    found = run.prefill(reference["tokens"].tolist(), 0, 0, every=True)
    np.testing.assert_allclose(found, reference["logits_dequant"], atol=2e-3, rtol=0)


def test_run_is_prefill_and_step_over_any_mix_of_rows(small: Executor) -> None:
    small.prefill([1, 2, 3], 0, 0)
    small.prefill([7], 2, 0)
    prompt = [40, 41, 42, 43, 44]
    mixed = small.run([10, *prompt, 30], [0, 1, 1, 1, 1, 1, 2], [3, 0, 1, 2, 3, 4, 1], [0, 5, 6])
    assert mixed.shape == (3, small.config.vocab)
    np.testing.assert_array_equal(mixed[1], small.prefill(prompt, 1, 0))
    np.testing.assert_array_equal(mixed[[0, 2]], small.step([10, 30], [0, 2], [3, 1]))
    every = small.run(prompt, [1] * 5, range(5), [1, 4])
    np.testing.assert_array_equal(every, small.prefill(prompt, 1, 0, every=True)[[1, 4]])
    assert small.run(prompt, [1] * 5, range(5), []).shape == (0, small.config.vocab)
    small.cancel()  # nothing runs: nothing happens
    assert small.run([1], [0], [0], [0]).shape == (1, small.config.vocab)
