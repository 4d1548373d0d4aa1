"""backends/cpu/executor.py: a small graph against NumPy, and the executor's promises."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import pytest
import small_step
from numpy.typing import NDArray
from small_step import CONFIG, CONTEXT, VOCAB

from edgellm.errors import BackendError
from edgellm.executor import Cancelled
from edgellm_backends.cpu import cores, thread_count
from edgellm_backends.cpu.executor import BundleExecutor

WEIGHTS = small_step.weights()
PACKED = {name: small_step.packed(values) for name, values in WEIGHTS.items()}
TOKENS = [(7 * place + 3) % VOCAB for place in range(CONTEXT)]


def opened(
    context: int = CONTEXT,
    slots: int = 3,
    threads: int | None = 2,
    kv: Literal["f16", "int8"] = "f16",
    max_rows: int = 16,
    weight_bytes: int = 0,
) -> BundleExecutor:
    return BundleExecutor(
        CONFIG,
        small_step.graph(),
        small_step.library(),
        {name: array.ctypes.data for name, array in PACKED.items()},
        context=context,
        slots=slots,
        threads=threads,
        kv=kv,
        max_rows=max_rows,
        weight_bytes=weight_bytes,
    )


@pytest.fixture(scope="module")
def small() -> Iterator[BundleExecutor]:
    executor = opened()
    yield executor
    executor.close()


@pytest.fixture(scope="module")
def expected() -> NDArray[np.float32]:
    return small_step.forward(WEIGHTS, TOKENS)


def test_a_prompt_and_its_continuation(
    small: BundleExecutor, expected: NDArray[np.float32]
) -> None:
    every = small.prefill(TOKENS, 0, 0, every=True)
    assert every.dtype == np.float32
    np.testing.assert_allclose(every, expected, atol=5e-3)
    for place, token in enumerate(TOKENS):
        np.testing.assert_array_equal(small.step([token], [1], [place])[0], every[place])


@pytest.mark.parametrize("cut", range(1, CONTEXT, 5))
def test_where_a_prompt_is_cut_changes_no_bit(small: BundleExecutor, cut: int) -> None:
    whole = small.prefill(TOKENS, 0, 0)
    small.prefill(TOKENS[:cut], 1, 0)
    np.testing.assert_array_equal(small.prefill(TOKENS[cut:], 1, cut), whole)


def test_threads_may_change_between_two_steps(small: BundleExecutor) -> None:
    every = small.prefill(TOKENS, 0, 0, every=True)
    other = opened(threads=3)
    assert other.threads == 3
    for place, (token, threads) in enumerate(zip(TOKENS, [1, 3, 2, 9, 0] * 99, strict=False)):
        other.threads = threads
        assert other.threads == min(max(threads, 1), 3)
        np.testing.assert_array_equal(other.step([token], [2], [place])[0], every[place])
    other.close()


@pytest.mark.parametrize("threads", [1, 3, 16])
def test_the_number_of_threads_changes_no_bit(small: BundleExecutor, threads: int) -> None:
    other = opened(threads=threads)
    every = small.prefill(TOKENS, 0, 0, every=True)
    np.testing.assert_array_equal(other.prefill(TOKENS, 0, 0, every=True), every)
    other.close()


def test_a_single_row_takes_the_threads_that_were_measured(
    small: BundleExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []

    def fastest(memory: thread_count.Memory, run: Callable[[int], int]) -> int:
        for count in (3, 2, 1):
            assert run(count) == 0
        counts.append(other_cores.count)
        return 2

    other_cores = cores.Cores(3, frozenset(os.sched_getaffinity(0)), little=False)
    monkeypatch.setattr(cores, "find", lambda: other_cores)
    monkeypatch.setattr(thread_count.Memory, "fastest", fastest)
    other = opened(threads=None)
    assert counts == [other.threads] == [3]
    every = small.prefill(TOKENS, 0, 0, every=True)
    np.testing.assert_array_equal(other.prefill(TOKENS[:9], 0, 0), every[8])
    assert other._step.threads == 3
    np.testing.assert_array_equal(other.step([TOKENS[9]], [0], [9])[0], every[9])
    assert other._step.threads == 2
    other.threads = 1
    other.step([TOKENS[9]], [0], [9])
    assert other._step.threads == 1
    other.close()
    opened(threads=3).close()
    assert len(counts) == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads can't be pinned here")
@pytest.mark.parametrize(("threads", "pinned"), [(None, True), (1, True), (2, False)])
def test_little_cores_are_left_alone(
    threads: int | None, pinned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = frozenset({max(os.sched_getaffinity(0))})
    monkeypatch.setattr(cores, "find", lambda: cores.Cores(1, big, little=True))
    other = opened(threads=threads)
    assert (other._engine is not None and other._engine._cpus) == (big if pinned else None)
    other.close()


def test_any_mix_of_rows_in_a_step(small: BundleExecutor) -> None:
    alone = [small.prefill(TOKENS[slot:], slot, 0, every=True) for slot in range(3)]
    small.prefill(TOKENS[1:10], 1, 0)
    small.prefill(TOKENS[2:6], 2, 0)
    tokens = [*TOKENS[:5], TOKENS[1 + 9], *TOKENS[2 + 4 : 2 + 7]]
    found = small.run(
        tokens, [0] * 5 + [1] + [2] * 3, [0, 1, 2, 3, 4, 9, 4, 5, 6], wanted=[2, 4, 5, 8]
    )
    wanted = [alone[0][2], alone[0][4], alone[1][9], alone[2][6]]
    np.testing.assert_array_equal(found, wanted)


def test_nothing_may_be_wanted(small: BundleExecutor) -> None:
    assert small.run([1, 2], [0, 0], [0, 1], []).shape == (0, VOCAB)


def test_a_copied_prefix_goes_on_as_the_original(small: BundleExecutor) -> None:
    whole = small.prefill(TOKENS, 0, 0, every=True)
    small.prefill(TOKENS[::-1], 2, 0)
    small.copy(0, 2, 21)
    np.testing.assert_array_equal(small.prefill(TOKENS[21:], 2, 21, every=True), whole[21:])


@pytest.mark.parametrize(("source", "target", "length"), [(0, 3, 1), (-1, 0, 1), (0, 1, -1)])
def test_copies_that_there_is_no_place_for(
    small: BundleExecutor, source: int, target: int, length: int
) -> None:
    with pytest.raises(ValueError, match="positions from slot"):
        small.copy(source, target, length)


def test_int8_memory_is_close(expected: NDArray[np.float32]) -> None:
    executor = opened(kv="int8")
    found = executor.prefill(TOKENS, 0, 0, every=True)
    assert np.abs(found - expected).max() < 0.04 * np.ptp(expected)
    executor.copy(0, 1, 30)
    np.testing.assert_array_equal(executor.prefill(TOKENS[30:], 1, 30, every=True), found[30:])
    executor.close()


def test_the_likeliest_tokens(small: BundleExecutor) -> None:
    logits = small.run(TOKENS[:3], [0] * 3, range(3), range(3)).copy()
    for row in range(3):
        assert small.choice.argmax(logits[row]) == logits[row].argmax()
        places, values = small.choice.top_k(logits[row], 10)
        np.testing.assert_array_equal(places, np.argsort(-logits[row], kind="stable")[:10])
        np.testing.assert_array_equal(values, logits[row][places])


def test_a_context_that_is_no_multiple_of_a_block(expected: NDArray[np.float32]) -> None:
    executor = opened(context=21)
    every = executor.prefill(TOKENS[:21], 2, 0, every=True)
    np.testing.assert_allclose(every, expected[:21], atol=5e-3)
    with pytest.raises(ValueError, match="in a context of 21"):
        executor.step([1], [0], [21])
    executor.close()


@pytest.mark.parametrize(
    ("tokens", "slots", "positions"),
    [([], [], []), ([0], [3], [0]), ([0], [-1], [0]), ([0], [0], [CONTEXT]), ([0], [0], [-1])],
)
def test_rows_that_there_is_no_place_for(
    small: BundleExecutor, tokens: list[int], slots: list[int], positions: list[int]
) -> None:
    with pytest.raises(ValueError, match=r"rows in a step|in a context"):
        small.run(tokens, slots, positions, range(len(tokens)))


def test_a_token_that_isnt_in_the_vocabulary_is_harmless(small: BundleExecutor) -> None:
    for token in (-1, VOCAB, 2**31 - 1, -(2**31)):
        assert np.isfinite(small.run([token], [0], [0], [0])).all()


def test_too_many_rows(small: BundleExecutor) -> None:
    with pytest.raises(ValueError, match="17 rows in a step of 1 to 16"):
        small.run([0] * 17, [0] * 17, range(17), [])


def test_more_slots_than_rows() -> None:
    executor = opened(slots=5, max_rows=2)
    assert executor.step([1] * 5, range(5), [0] * 5).shape == (5, VOCAB)
    executor.close()


def test_cancelled_from_another_thread(small: BundleExecutor) -> None:
    stop = threading.Event()

    def cancel() -> None:
        while not stop.is_set():
            small.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        with pytest.raises(Cancelled):
            all(small.prefill(TOKENS, 0, 0).size for _ in range(100_000))
    finally:
        stop.set()
        thread.join()
    small.cancel()  # between calls: nothing
    first = small.prefill(TOKENS, 0, 0)
    np.testing.assert_array_equal(small.prefill(TOKENS, 1, 0), first)


def test_closing_twice_is_harmless() -> None:
    executor = opened()
    logits = executor.run([1], [0], [0], [0])
    executor.close()
    executor.close()
    assert np.isfinite(logits).all()
    with pytest.raises(ValueError, match="has been closed"):
        executor.step([1], [0], [0])


def test_two_models_at_once_and_one_after_the_other() -> None:
    first = opened()
    wanted = first.prefill(TOKENS, 0, 0)
    for _ in range(3):
        second = opened(slots=1)
        np.testing.assert_array_equal(second.prefill(TOKENS, 0, 0), wanted)
        second.close()
    np.testing.assert_array_equal(first.prefill(TOKENS, 0, 0), wanted)
    first.close()


def test_what_is_no_library() -> None:
    for library in (b"", b"\x7fELF"):
        with pytest.raises(BackendError, match="library"):
            BundleExecutor(CONFIG, small_step.graph(), library, {}, context=16)
