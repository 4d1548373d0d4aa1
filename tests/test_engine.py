"""backends/cpu/kernels/engine.c and engine.py: parts of calls, run by a pool of threads."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from edgellm.errors import BackendError
from edgellm_backends.cpu import cores, engine, library, target
from edgellm_backends.cpu.calls import CALL
from edgellm_backends.cpu.engine import Engine, Step

COUNT, MIX, BURN, WHERE, PROCESSOR = range(5)
SOURCE = Path(__file__).with_name("engine_kernels.c")
KERNELS = [library.KERNELS / f"{name}.c" for name in ("engine", "choice", "slots")]


@functools.cache
def built() -> bytes:
    processor = target.native()
    try:
        library.toolchain(processor)
    except BackendError as error:
        pytest.skip(str(error))
    return library.library(processor, SOURCE.read_text(), kernels=KERNELS)


class Program:
    """Calls for the engine, with what they point to."""

    def __init__(self, calls: list[tuple[int, list[NDArray[np.generic]], tuple[int, ...]]]) -> None:
        self.step, self.cancel = Step(rows=1), ctypes.c_int32()
        self.which = np.array([which for which, _, _ in calls], np.int32)
        self.calls = np.zeros(len(calls), CALL)
        self.kept = calls
        for entry, (_, buffers, numbers) in zip(self.calls, calls, strict=True):
            entry["buffers"][: len(buffers)] = [buffer.ctypes.data for buffer in buffers]
            entry["numbers"][: len(numbers)] = numbers

    @property
    def part(self) -> tuple[int, int, int]:
        return self.which.ctypes.data, self.calls.ctypes.data, len(self.which)

    def on(self, pool: Engine) -> Callable[[], int]:
        run = pool.prepared(self.part, self.step, self.cancel)
        return lambda: self.kept and run()  # keeps what the engine knows by address only


@pytest.fixture(params=[1, 2, 3, 8])
def pool(request: pytest.FixtureRequest) -> Iterator[Engine]:
    made = Engine(built(), request.param)
    assert made.threads == request.param
    yield made
    made.close()


def test_every_part_is_run_once(pool: Engine) -> None:
    sizes = [1, 2, 3, 7, 8, 9, 64, 1000, 65535, 65536, 100_000] * 3
    counters = [np.zeros(size, np.int32) for size in sizes]
    program = Program(
        [(COUNT, [array], (size,)) for array, size in zip(counters, sizes, strict=True)]
    )
    run = program.on(pool)
    for _ in range(20):
        assert run() == 0
    assert program.step.threads == pool.threads
    for array in counters:
        assert (array == 20).all()


def test_calls_see_what_those_before_have_written(pool: Engine) -> None:
    first, second = (np.arange(8, dtype=np.uint32) for _ in range(2))
    mixes = [(MIX, [second, first], (8,)), (MIX, [first, second], (8,))]
    program = Program(mixes * 50)
    run = program.on(pool)
    expected = [np.arange(8, dtype=np.uint32)] * 2
    for _ in range(20):
        assert run() == 0
    for _ in range(20 * 100):
        sums = np.arange(8, dtype=np.uint32)
        for value in expected[1]:
            sums = sums * np.uint32(31) + value
        expected = [expected[1], sums]
    np.testing.assert_array_equal(first, expected[1])


def test_work_is_shared_while_the_pool_is_awake() -> None:
    pool = Engine(built(), 2)
    seen: set[int] = set()
    for _ in range(200):  # a busy machine may keep the second thread waiting
        stacks = np.zeros(64, np.uint64)
        assert Program([(WHERE, [stacks], (64, 20_000))]).on(pool)() == 0
        seen = set(stacks.tolist())
        if len(seen) == 2:
            break
    pool.close()
    assert len(seen) == 2


def test_a_step_may_be_for_fewer_threads_than_there_are() -> None:
    pool = Engine(built(), 4)
    counter = np.zeros(1000, np.int32)
    counting, looking = Program([(COUNT, [counter], (1000,))]), []
    for threads in (1, 2, 3, 4, 9, 2):
        counting.step.threads = threads
        assert counting.on(pool)() == 0
        assert counting.step.threads == min(threads, 4)
        stacks = np.zeros(64, np.uint64)
        program = Program([(WHERE, [stacks], (64, 5000))])
        program.step.threads = threads
        assert program.on(pool)() == 0
        looking.append(len(set(stacks.tolist())))
    pool.close()
    assert (counter == 6).all()
    assert looking[0] == 1
    assert max(looking[1], looking[5]) <= 2


def test_threads_sleep_when_there_is_nothing_to_do() -> None:
    pool = Engine(built(), 4)
    counter = np.zeros(64, np.int32)
    run = Program([(COUNT, [counter], (64,))]).on(pool)
    for pause in (0.3, 0.0005, 0.0001):  # asleep, falling asleep, awake
        begin, used = time.perf_counter(), time.process_time()
        for _ in range(10):
            run()
            time.sleep(pause)
        spent, elapsed = time.process_time() - used, time.perf_counter() - begin
        if pause == 0.3:
            assert spent < 0.02 * elapsed
    assert (counter == 30).all()
    pool.close()


def test_cancelled_before_the_next_call() -> None:
    pool = Engine(built(), 2)
    counter = np.zeros(4, np.int32)
    program = Program([(BURN, [], (4, 200_000))] * 500 + [(COUNT, [counter], (4,))])
    run = program.on(pool)

    def cancel() -> None:
        program.cancel.value = 1

    timer = threading.Timer(0.05, cancel)
    timer.start()
    assert run() == 1
    assert not counter.any()
    assert run() == 1  # for as long as it's set
    program.cancel.value = 0
    timer.join()
    program.calls["numbers"][:, 1] = 0
    assert run() == 0
    assert (counter == 1).all()
    pool.close()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads can't be pinned here")
def test_pinned_threads_stay_where_they_are_told() -> None:
    before, tasks = os.sched_getaffinity(0), set(os.listdir("/proc/self/task"))
    cpu = max(before)
    pool = Engine(built(), 3, frozenset({cpu}))
    workers = set(os.listdir("/proc/self/task")) - tasks
    assert len(workers) == 2
    assert [os.sched_getaffinity(int(worker)) for worker in workers] == [{cpu}] * 2
    assert os.sched_getaffinity(0) == before
    where = np.full(64, -1, np.int32)
    run = Program([(PROCESSOR, [where], (64, 20_000))]).on(pool)
    for _ in range(20):
        assert run() == 0
        assert (where == cpu).all()  # the caller's parts, too
        assert os.sched_getaffinity(0) == before
    pool.close()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads can't be pinned here")
def test_processors_that_are_gone_are_done_without() -> None:
    pool = Engine(built(), 2, frozenset({4095}))
    counter = np.zeros(64, np.int32)
    assert Program([(COUNT, [counter], (64,))]).on(pool)() == 0
    assert (counter == 1).all()
    pool.close()


def spin() -> None:
    while True:
        pass


@pytest.mark.skipif(cores.usable() < 2, reason="there is one core only")
def test_a_busy_core_costs_no_more_than_its_share() -> None:
    pool = Engine(built(), 2)
    run = Program([(BURN, [], (16, 20_000))] * 20).on(pool)

    def speed(seconds: float) -> float:
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            run()
            count += 1
        return count / (time.perf_counter() - begin)

    pin = min(os.sched_getaffinity(0))
    shares = []
    for _ in range(5):  # others may be busy too
        free = speed(0.4)
        other = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
        other.start()
        os.sched_setaffinity(other.pid or 0, {pin})
        speed(0.3)
        shares.append(speed(1.0) / free)
        other.kill()
        other.join()
        if shares[-1] > 0.4:
            break
    pool.close()
    assert max(shares) > 0.4, shares


def test_more_threads_than_cores_still_get_there() -> None:
    pool = Engine(built(), 32)
    counter = np.zeros(100, np.int32)
    run = Program([(COUNT, [counter], (100,)), (BURN, [], (33, 1000))] * 100).on(pool)
    for _ in range(3):
        run()
    pool.close()
    assert (counter == 300).all()


def test_a_system_that_gives_no_more_threads(tmp_path: Path) -> None:
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[1]); import numpy as np;"
        "import test_engine as t;"
        "library = open(sys.argv[2], 'rb').read();"
        "resource.setrlimit(resource.RLIMIT_AS, (600 << 20,) * 2);"
        "pool = t.Engine(library, 256); print(pool.threads);"
        "counter = np.zeros(50, np.int32);"
        "t.Program([(t.COUNT, [counter], (50,))]).on(pool)(); assert (counter == 1).all();"
        "pool.close()"
    )
    file = tmp_path / "library.so"
    file.write_bytes(built())
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(file)],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert 1 <= int(done.stdout) < 256


def test_signals_reach_the_main_thread() -> None:
    pool = Engine(built(), 4)
    told: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: told.append(threading.get_ident()))
    try:
        for _ in range(20):
            os.kill(os.getpid(), signal.SIGUSR1)
            begin = time.monotonic()
            time.sleep(0.001)
            assert time.monotonic() - begin < 1
    finally:
        signal.signal(signal.SIGUSR1, before)
        pool.close()
    assert len(told) == 20


def test_scratch_is_the_most_that_a_call_asks_for() -> None:
    pool = Engine(built(), 1)
    counter = np.zeros(1, np.int32)
    program = Program(
        [(BURN, [], (1, 70)), (COUNT, [counter], (1,)), (BURN, [], (1, 90)), (BURN, [], (1, 3))]
    )
    program.step.rows = 5
    assert pool.scratch(program.part, program.step) == 450
    pool.close()


def test_pools_come_and_go_and_leave_nothing() -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    files, threads = open_files(), len(os.listdir("/proc/self/task"))
    for count in range(1, 30):
        pool = Engine(built(), 1 + count % 5)
        counter = np.zeros(9, np.int32)
        Program([(COUNT, [counter], (9,))]).on(pool)()
        assert (counter == 1).all()
        pool.close()
        pool.close()
    assert (open_files(), len(os.listdir("/proc/self/task"))) == (files, threads)


def test_where_memory_files_cant_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> int:
        raise PermissionError(13, "no memory files")

    monkeypatch.setattr(os, "memfd_create", refuse)
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path))
    pool = Engine(built(), 2)
    assert list(tmp_path.iterdir()) == []
    pool.close()
    monkeypatch.setenv("CACHE_DIRECTORY", "/dev/null/nowhere")
    with pytest.raises(BackendError, match="XDG_CACHE_HOME"):
        Engine(built(), 2)


def test_a_library_of_another_abi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "ABI", 2)
    with pytest.raises(BackendError, match="ABI is 1, not 2"):
        Engine(built(), 2)


def test_no_memory_is_writable_and_executable() -> None:
    pool = Engine(built(), 2)
    maps = Path("/proc/self/maps").read_text().splitlines()
    ours = [line.split()[1] for line in maps if "memfd:edgellm" in line]
    pool.close()
    assert ours
    assert not [flags for flags in ours if "w" in flags and "x" in flags]


# --- the greatest of many -------------------------------------------------------------------------

NUMBERS = arrays.arrays(
    np.float32,
    st.integers(1, 80),
    elements=st.floats(width=32) | st.sampled_from([0.0, 1.0, float("nan"), float("-inf")]),
)


@functools.cache
def chooser() -> Engine:
    return Engine(built(), 1)


def order(numbers: NDArray[np.float32]) -> list[int]:
    """Places, the greatest first: what the engine promises, plainly."""
    keys = [float("-inf") if np.isnan(number) else float(number) for number in numbers]
    return sorted(range(len(keys)), key=lambda place: -keys[place])


@given(NUMBERS)
def test_argmax(numbers: NDArray[np.float32]) -> None:
    assert chooser().argmax(numbers) == order(numbers)[0]


@given(NUMBERS, st.integers(0, 90))
def test_top_k(numbers: NDArray[np.float32], k: int) -> None:
    places, values = chooser().top_k(numbers, k)
    assert places.tolist() == order(numbers)[:k]
    expected = np.where(np.isnan(numbers), -np.inf, numbers)[places]
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 32003, 151936])
def test_whole_vocabularies(count: int) -> None:
    random = np.random.default_rng(count)
    for numbers in (random.normal(size=count), np.arange(count), np.zeros(count)):
        logits = numbers.astype(np.float32)
        expected = np.argsort(-logits, kind="stable")
        assert chooser().argmax(logits) == expected[0]
        places, values = chooser().top_k(logits, 40)
        np.testing.assert_array_equal(places, expected[:40])
        np.testing.assert_array_equal(values, logits[places])
