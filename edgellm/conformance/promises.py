"""What serving relies on besides right numbers: slots, cuts, neighbours, ends, errors, memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from edgellm.conformance import models
from edgellm.conformance.resident import resident
from edgellm.conformance.workbench import (
    CONTEXT,
    SLOTS,
    TOLERANCE,
    Fault,
    Logits,
    Workbench,
    error,
    judge,
    prompt,
    right,
    same,
    sound,
)
from edgellm.executor import Cancelled, Executor

STEPS = 1500
"""Of the check for leaks, after a third as many that don't count."""
LEAK = 2 << 20
"""Bytes that the process may grow by in them: allocators have their ways."""
CANCEL_S = 20.0
"""In which one of many calls must have noticed that it's cancelled."""


def near(found: Logits, wanted: Logits, what: str) -> None:
    """Raise Fault unless they are equal but for rounding."""
    worst = error(found, wanted).max()
    if not worst <= TOLERANCE:
        raise Fault(f"{what}: logits differ by {worst:.1%} of their range")


def shapes(bench: Workbench) -> str:
    tokens = prompt(5)
    with bench.open(bench.usual) as executor:
        for name in ("config", "context", "slots", "threads", "max_rows", "chunk", "choice"):
            if not hasattr(executor, name):
                raise Fault(f"the executor has no {name!r}")
        if (executor.slots, executor.context) != (SLOTS, CONTEXT):
            given = f"{executor.slots} slots of {executor.context} positions"
            raise Fault(f"{given}; {SLOTS} of {CONTEXT} were asked for")
        if executor.max_rows < max(executor.chunk, executor.slots):
            raise Fault(f"max_rows is {executor.max_rows}; chunk and slots at least are needed")
        every = sound(executor.prefill(tokens, 0, 0, every=True), 5)
        last = executor.prefill(tokens, 0, 0)
        if last.shape != (models.VOCAB,):
            raise Fault(f"prefill's logits have the shape {last.shape}, not {(models.VOCAB,)}")
        near(last[None], every[-1:], "the last row of a prompt")
        sound(executor.run(tokens, [1] * 5, range(5), []), 0)
        found = sound(executor.run(tokens, [1] * 5, range(5), [1, 4]), 2)
        near(found, every[[1, 4]], "the rows that are wanted")
        sound(executor.step(tokens[:SLOTS], range(SLOTS), [0] * SLOTS), SLOTS)
        return f"{executor.max_rows} rows at most, chunks of {executor.chunk}"


def positions(bench: Workbench) -> str:
    """Where a prompt is cut changes nothing but rounding; nor does going back."""
    name, tokens = bench.usual, prompt(40, 1)
    wanted, cuts, ways = right(name, tokens), (1, 2, 7, 31, 32, 33), (20, 3, 0)
    with bench.open(name) as executor:
        whole = sound(executor.prefill(tokens, 0, 0, every=True), 40)
        judge(name, tokens, whole)
        for cut in cuts:
            executor.prefill(tokens[:cut], 1, 0)
            rest = sound(executor.prefill(tokens[cut:], 1, cut, every=True), 40 - cut)
            near(rest, wanted[cut:], f"a prompt cut at position {cut}")
            if executor.chunk == 1:
                same(rest, whole[cut:], f"a prompt cut at position {cut}, where chunk is 1")
        for back in ways:
            found = sound(executor.step([99], [1], [back]), 1)
            near(found, right(name, [*tokens[:back], 99])[-1:], f"back at position {back}")
    return f"{len(cuts)} cuts, {len(ways)} ways back"


def slots(bench: Workbench) -> str:
    """Sequences in several slots grow in turns, each as if it were alone."""
    name, order = bench.usual, (2, 0, 1)
    sequences = [prompt(30, seed) for seed in (2, 3, 4)]
    wanted = [right(name, tokens) for tokens in sequences]
    with bench.open(name) as executor:
        for slot in order:
            executor.prefill(sequences[slot][:12], slot, 0)
        for at in range(12, 28):
            for slot in order:
                found = executor.step([sequences[slot][at]], [slot], [at])
                _check_slot(sound(found, 1), wanted, slot, at)
        for at in (28, 29):
            tokens = [sequences[slot][at] for slot in order]
            together = sound(executor.step(tokens, order, [at] * SLOTS), SLOTS)
            for row, slot in enumerate(order):
                _check_slot(together[row : row + 1], wanted, slot, at)
    return f"{SLOTS} sequences in turns"


def _check_slot(found: Logits, wanted: Sequence[Logits], slot: int, at: int) -> None:
    if error(found, wanted[slot][at : at + 1]).max() <= TOLERANCE:
        return
    for other, rows in enumerate(wanted):
        if error(found, rows[at : at + 1]).max() <= TOLERANCE:
            raise Fault(f"wrong slot: at position {at} slot {slot} has the logits of slot {other}")
    raise Fault(f"wrong slot: at position {at} slot {slot} depends on what others hold")


def forgetting(bench: Workbench) -> str:
    """What a slot held before a new sequence, and above a position gone back to, is forgotten."""
    name, long, short = bench.usual, prompt(CONTEXT, 5), prompt(6, 6)
    with bench.open(name) as executor:
        executor.prefill(long, 0, 0)
        found = sound(executor.prefill(short, 0, 0, every=True), 6)
        stale = "stale memory: a sequence depends on what its slot held before"
        near(found, right(name, short), stale)
        executor.prefill(long, 0, 0)
        executor.prefill(short, 0, 10)
        again = [*long[:10], *short, 50]
        stale = "stale memory: positions above one gone back to aren't forgotten"
        near(sound(executor.step([50], [0], [16]), 1), right(name, again)[-1:], stale)
    return "a slot used again, positions gone back to"


def copies(bench: Workbench) -> str:
    name, tokens, lengths = bench.usual, prompt(CONTEXT - 1, 7), (1, 8, 17, 32, CONTEXT - 1)
    with bench.open(name) as executor:
        for source, target in ((0, 2), (2, 1), (1, 0)):
            for length in lengths:
                executor.prefill(tokens, source, 0)
                executor.prefill(prompt(CONTEXT, 8), target, 0)
                executor.copy(source, target, length)
                there = sound(executor.step([9], [target], [length]), 1)
                what = f"{length} positions copied from slot {source} to {target}"
                near(there, right(name, [*tokens[:length], 9])[-1:], what)
                same(there, sound(executor.step([9], [source], [length]), 1), what)
    return f"{len(lengths)} lengths between {SLOTS} slots"


def batching(bench: Workbench) -> str:
    """Rows of several sequences in one call are, to the bit, what they are alone."""
    name, sequences = bench.usual, [prompt(20, seed) for seed in (10, 11, 12)]
    with bench.open(name) as executor:

        def begin() -> None:
            for slot in range(SLOTS):
                executor.prefill(sequences[slot][:10], slot, 0)

        begin()
        apart = [sound(executor.step([sequences[s][10]], [s], [10]), 1) for s in range(SLOTS)]
        for order in ((0, 1, 2), (2, 0), (1, 2, 0)):
            begin()
            tokens = [sequences[slot][10] for slot in order]
            found = sound(executor.step(tokens, order, [10] * len(order)), len(order))
            for row, slot in zip(found, order, strict=True):
                what = f"slot {slot} beside {len(order) - 1} others is not what it is alone"
                same(row[None], apart[slot], what)
        begin()
        # A prompt's rows between two that decode.
        mixed = [sequences[0][10], *sequences[1][10:15], sequences[2][10]]
        found = executor.run(mixed, [0, *[1] * 5, 2], [10, *range(10, 15), 10], [0, 5, 6])
        found = sound(found, 3)
        begin()
        prompted = sound(executor.run(sequences[1][10:15], [1] * 5, range(10, 15), [4]), 1)
        for row, wanted in zip(found, (apart[0], prompted, apart[2]), strict=True):
            same(row[None], wanted, "a row beside a prompt's is not what it is alone")
    return "4 mixtures, equal to the bit"


def determinism(bench: Workbench) -> str:
    name, tokens = bench.usual, prompt(40, 13)
    with bench.open(name) as executor:
        first = sound(executor.prefill(tokens, 0, 0, every=True), 40)
        for slot in (0, 1, 2, 0):
            again = sound(executor.prefill(tokens, slot, 0, every=True), 40)
            same(again, first, "the same call does not give the same logits")
    with bench.open(name) as executor:
        again = sound(executor.prefill(tokens, 0, 0, every=True), 40)
        same(again, first, "opened again, the same call does not give the same logits")
    return "5 repeats, equal to the bit"


def context_end(bench: Workbench) -> str:
    name, tokens = bench.usual, prompt(CONTEXT, 14)
    with bench.open(name) as executor:
        judge(name, tokens, executor.prefill(tokens, 0, 0, every=True))
        executor.prefill(tokens[:-1], 1, 0)
        found = sound(executor.step(tokens[-1:], [1], [CONTEXT - 1]), 1)
        near(found, right(name, tokens)[-1:], "the last position")
        _refused("a position beyond the context", lambda: executor.step([5], [1], [CONTEXT]))
        _refused("a prompt beyond the context", lambda: executor.prefill([5] * 2, 1, CONTEXT - 1))
    return f"position {CONTEXT - 1} is used, {CONTEXT} refused"


def errors(bench: Workbench) -> str:
    """Rows that there is no place for raise ValueError and do no harm."""
    name, tokens = bench.usual, prompt(12, 15)
    with bench.open(name) as executor:
        executor.prefill(tokens[:-1], 0, 0)
        many = executor.max_rows + 1
        wrong: dict[str, Callable[[], object]] = {
            "no rows": lambda: executor.run([], [], [], []),
            "too many rows": lambda: executor.run([5] * many, [1] * many, range(many), []),
            "a slot beyond the last": lambda: executor.step([5], [SLOTS], [0]),
            "a slot below 0": lambda: executor.step([5], [-1], [0]),
            "a position below 0": lambda: executor.step([5], [0], [-1]),
            "an empty prompt": lambda: executor.prefill([], 1, 0),
            "a copy to no slot": lambda: executor.copy(0, SLOTS, 1),
            "a copy of too much": lambda: executor.copy(0, 1, CONTEXT + 1),
        }
        for what, call in wrong.items():
            _refused(what, call)
        found = sound(executor.step(tokens[-1:], [0], [len(tokens) - 1]), 1)
        near(found, right(name, tokens)[-1:], "after calls that were refused")
    return f"{len(wrong)} wrong calls refused"


def _refused(what: str, call: Callable[[], object]) -> None:
    try:
        call()
    except ValueError:
        return
    except Exception as error:
        raise Fault(f"{what} raises {type(error).__name__}, not ValueError") from error
    raise Fault(f"{what} raises no ValueError")


def cancelling(bench: Workbench) -> str:
    """`cancel` from another thread ends the call under way, and no other."""
    name, tokens, stop = bench.usual, prompt(30, 16), threading.Event()
    with bench.open(name) as executor:

        def cancel() -> None:
            while not stop.wait(0.0002):
                executor.cancel()

        def rows() -> object:
            order = [slot for slot in range(SLOTS) for _ in range(10)]
            return executor.run(tokens, order, [*range(10)] * SLOTS, [9, 19, 29])

        canceller = threading.Thread(target=cancel)
        canceller.start()
        calls, until = 0, time.monotonic() + CANCEL_S
        try:
            with suppress(Cancelled):
                while time.monotonic() < until:
                    rows()
                    calls += 1
                raise Fault(f"cancel ended none of {calls} calls in {CANCEL_S:.0f} s")
        finally:
            stop.set()
            canceller.join()
        executor.cancel()  # nothing is under way
        found = executor.prefill(tokens, 0, 0, every=True)
        judge(name, tokens, found)
    return f"after {calls} calls"


def other_threads(bench: Workbench) -> str:
    """It is opened in one thread and used in another."""
    name, tokens = bench.usual, prompt(20, 17)
    found: list[object] = []
    with bench.open(name) as executor:

        def work() -> None:
            try:
                found.append(executor.prefill(tokens, 0, 0, every=True))
            except Exception as error:
                found.append(error)

        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
    if isinstance(found[0], Exception):
        raise found[0]
    judge(name, tokens, found[0])
    return "opened here, run there"


def growth(bench: Workbench) -> str:
    """Many steps take no more memory than few."""
    with bench.open(bench.usual) as executor:
        _steps(executor, STEPS // 3)
        before = resident()
        _steps(executor, STEPS)
        grown = resident() - before
    if grown > LEAK:
        raise Fault(
            f"leak: memory grew by {grown / 2**20:.1f} MiB in {STEPS} steps, "
            f"{grown / STEPS / 1024:.1f} KiB a step"
        )
    return f"{max(grown, 0) / 2**20:.1f} MiB in {STEPS} steps"


def _steps(executor: Executor, count: int) -> None:
    for step in range(count):
        executor.run([5 + step % 200] * SLOTS, range(SLOTS), [step % CONTEXT] * SLOTS, [0, 1, 2])


def closing(bench: Workbench) -> str:
    """Closed executors refuse work, can be closed again, and leave others alone."""
    name, tokens = bench.usual, prompt(10, 18)
    with bench.open(name) as stays:
        stays.prefill(tokens[:-1], 0, 0)
        for _ in range(3):
            with bench.open(name, slots=1) as executor:
                kept = sound(executor.prefill(tokens, 0, 0, every=True), 10)
                judge(name, tokens, kept)
            executor.close()
            if _works(executor):
                raise Fault("a closed executor still works")
        found = sound(stays.step(tokens[-1:], [0], [len(tokens) - 1]), 1)
        near(found, right(name, tokens)[-1:], "an executor beside one that was closed")
    return "3 opened and closed beside another"


def _works(executor: Executor) -> bool:
    try:
        executor.step([5], [0], [0])
    except Exception:
        return False
    return True


def serving(bench: Workbench) -> str:
    """Answers of the scheduler, more than there are slots, are those of a model used alone."""
    import asyncio

    from edgellm import tokenizer
    from edgellm.answer import Request
    from edgellm.generation import SingleSlot, generate
    from edgellm.sampling import Sampling
    from edgellm.scheduler import Scheduler
    from edgellm.session import Session

    words, greedy = tokenizer.make(models.vocabulary()), Sampling(temperature=0)
    prompts = [prompt(8 + 5 * seed, 20 + seed) for seed in range(5)]

    async def answers(executor: Executor) -> list[list[int]]:
        async with Scheduler(executor, words) as scheduler:
            asked = [
                scheduler.submit(Session(str(seed)), Request(tokens, greedy, max_tokens=16))
                for seed, tokens in enumerate(prompts)
            ]
            for answer in asked:
                async for _ in answer:
                    pass
            return [answer.generation.tokens for answer in asked]

    together = asyncio.run(answers(bench.opened(bench.usual)))
    with bench.open(bench.usual) as executor:
        for seed, tokens in enumerate(prompts):
            pieces = generate(SingleSlot(executor), words, tokens, greedy, max_tokens=16)
            drawn = [piece.token for piece in pieces]
            if together[seed] != [*tokens, *drawn]:
                raise Fault(f"served beside others, answer {seed} is not the one given alone")
    return f"{len(prompts)} answers in {SLOTS} slots"
