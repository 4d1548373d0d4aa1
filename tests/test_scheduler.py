"""Many answers from one executor: the same as alone, in fair turns, whatever goes wrong."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from random import Random

import numpy as np
import pytest
from asking import GREEDY, alone, ask, collect
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from toy_executor import BOS, ToyExecutor, ToyTokenizer

from edgellm.answer import Answer, Request
from edgellm.channel import Done, Priority
from edgellm.errors import (
    BackendError,
    BusyError,
    ContextError,
    ExpiredError,
    PluginError,
    UsageError,
)
from edgellm.job import PATIENCE
from edgellm.sampling import Sampler, Sampling
from edgellm.scheduler import WORTHWHILE, Scheduler
from edgellm.session import Session

BROKEN = 200
"""A token that the toy never draws by itself."""
LONG = [BOS, *(b"the same system message for all " * 2)]  # 65 tokens


def serve(executor: ToyExecutor, test: Callable[[Scheduler], Awaitable[None]], **kw: int) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), Scheduler(executor, ToyTokenizer(), **kw) as scheduler:
            await test(scheduler)

    asyncio.run(main())
    assert executor.closed
    assert not [t for t in threading.enumerate() if t.name.startswith("executor")]


REQUESTS = st.builds(
    Request,
    tokens=st.builds(
        lambda shared, own: LONG[:shared] + list(own.encode()),
        st.integers(1, 40),
        st.text("abc", max_size=20),
    ),
    sampling=st.builds(Sampling, temperature=st.sampled_from([0.0, 1.5]), seed=st.integers(0, 9)),
    max_tokens=st.integers(0, 12),
    stop=st.lists(st.text("ab!", min_size=1, max_size=2), max_size=2).map(tuple),
    strengths=st.sampled_from([(0.0,), (0.5,), (1.0,)]),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(REQUESTS, min_size=1, max_size=3), min_size=2, max_size=8),
    st.integers(1, 4),
    st.sampled_from([1, 1, 8]),
    st.integers(0, 9),
    st.integers(0, 999),
)
def test_every_session_gets_what_it_would_get_alone(
    conversations: list[list[Request]], slots: int, chunk: int, spare: int, seed: int
) -> None:
    random = Random(seed)

    async def talk(scheduler: Scheduler, requests: list[Request]) -> None:
        session = Session("")
        for request in requests:
            for _ in range(random.randrange(5)):
                await asyncio.sleep(0)
            answer = scheduler.submit(session, request)
            if random.random() < 0.2:  # somebody who hangs up in the middle
                async for _ in answer:
                    answer.stop()
                assert alone(request, ends=30).startswith(answer.text)
                continue
            text, done = await collect(answer)
            assert text == alone(request, ends=30)
            assert done.prompt_tokens == len(request.tokens)
        if random.random() < 0.5:
            scheduler.release(session)

    async def test(scheduler: Scheduler) -> None:
        async with asyncio.TaskGroup() as group:
            for requests in conversations:
                group.create_task(talk(scheduler, requests))

    serve(ToyExecutor(slots=slots, rows=slots + chunk + spare, ends=30, chunk=chunk), test)


def test_what_a_session_holds_is_not_computed_again() -> None:
    executor = ToyExecutor()

    async def test(scheduler: Scheduler) -> None:
        session = Session("a")
        first = ask("hello, how are you?", 5)
        text, done = await collect(scheduler.submit(session, first))
        assert done.cached_tokens == 0
        # The last token of an answer was drawn, but not fed.
        again = Request([*first.tokens, *text.encode(), *b"more"], GREEDY, 5)
        executor.record.clear()
        text, done = await collect(scheduler.submit(session, again))
        assert text == alone(again)
        assert done.cached_tokens == len(first.tokens) + 4
        assert executor.record[0] == ("run", (0,), (5,))

    serve(executor, test)


def test_a_prompt_that_is_held_whole_feeds_its_last_token_only() -> None:
    executor = ToyExecutor()

    async def test(scheduler: Scheduler) -> None:
        session = Session("a")
        first, _ = await collect(scheduler.submit(session, ask("hello")))
        executor.record.clear()
        again, done = await collect(scheduler.submit(session, ask("hello")))
        assert again == first
        assert done.cached_tokens == done.prompt_tokens - 1
        assert {counts for _, _, counts in executor.record} == {(1,)}

    serve(executor, test)


def test_a_newcomer_takes_a_copy_of_a_shared_beginning() -> None:
    executor = ToyExecutor()

    async def test(scheduler: Scheduler) -> None:
        request = Request(LONG + list(b"one"), GREEDY, 4)
        await collect(scheduler.submit(Session("a"), request))
        executor.record.clear()
        other = Request(LONG + list(b"two"), GREEDY, 4)
        text, done = await collect(scheduler.submit(Session("b"), other))
        assert text == alone(other)
        assert done.cached_tokens == 65
        assert executor.record[0] == ("copy", (0, 1), (65,))

    serve(executor, test)


def test_two_answers_never_wait_for_each_other() -> None:
    async def main() -> None:
        scheduler = Scheduler(ToyExecutor(slots=2), ToyTokenizer())
        request = ask("the same long question")
        for name in "ab":
            scheduler.submit(Session(name), request)
            job = scheduler._next()
            assert job is not None
            await scheduler._admit(job)
        first, second = scheduler._running
        assert second.leader is first
        # The first gives way, and comes back before the second has been told.
        first.evict()
        scheduler._running.remove(first)
        await scheduler._admit(first)
        assert first.leader is None
        await scheduler.close()

    asyncio.run(main())


def test_who_stops_while_waiting_for_a_beginning_leaves_the_slots_next_owner_alone() -> None:
    """He stops within a turn, in which another gets his slot and his leader has come so far."""

    class Meanwhile(ToyExecutor):
        then: Callable[[], None] | None = None

        def copy(self, source: int, target: int, length: int) -> None:
            then, self.then = self.then, None
            if then is not None:
                then()
            super().copy(source, target, length)

    executor = Meanwhile(slots=3, rows=20)

    async def test(scheduler: Scheduler) -> None:
        loop, happened = asyncio.get_running_loop(), threading.Event()
        requests = [Request([*LONG[:20], *own * 20], GREEDY, 20) for own in (b"a", b"b", b"c")]
        stranger = ask("z" * 40)
        answers = [scheduler.submit(Session(name), requests[i]) for i, name in enumerate("ab")]

        def soon() -> None:
            loop.call_soon_threadsafe(newcomer)

        def newcomer() -> None:
            executor.during = lambda: None
            answers.append(scheduler.submit(Session("c"), requests[2]))

        def meanwhile() -> None:
            answers[1].stop()
            answers.append(scheduler.submit(Session("z"), stranger))
            happened.set()

        def then() -> None:
            loop.call_soon_threadsafe(meanwhile)
            assert happened.wait(10)

        executor.during, executor.then = soon, then
        texts = [(await collect(answer))[0] for answer in answers]
        assert happened.is_set()
        assert texts == [alone(requests[0]), "", alone(requests[2]), alone(stranger)]

    serve(executor, test)


def test_a_newcomer_gets_the_slot_that_somebody_left_with_the_same_beginning() -> None:
    executor = ToyExecutor()

    async def test(scheduler: Scheduler) -> None:
        for name in ("one", "two"):
            session = Session(name)
            request = Request(LONG + list(name.encode()), GREEDY, 4)
            text, done = await collect(scheduler.submit(session, request))
            assert text == alone(request)
            scheduler.release(session)
        assert done.cached_tokens == 65
        assert {slots for _, slots, _ in executor.record} == {(0,)}

    serve(executor, test)


def test_what_was_computed_with_other_adapters_is_never_reused() -> None:
    executor = ToyExecutor(slots=3)

    async def test(scheduler: Scheduler) -> None:
        session, texts = Session("a"), []
        for strengths in ((0.0,), (1.0,), (0.5,), (1.0,)):
            request = Request(LONG, GREEDY, 4, strengths=strengths)
            text, done = await collect(scheduler.submit(session, request))
            texts.append(text)
            assert (text, done.cached_tokens) == (alone(request), 0)
        assert texts[1] == texts[3]
        assert len(set(texts)) == 3
        request = Request([*LONG, 65], GREEDY, 4, strengths=(1.0,))
        _, done = await collect(scheduler.submit(Session("b"), request))
        assert done.cached_tokens == len(LONG)

    serve(executor, test)


def test_the_least_recently_used_idle_session_makes_room() -> None:
    executor = ToyExecutor(slots=2)

    async def test(scheduler: Scheduler) -> None:
        a, b, c = Session("a"), Session("b"), Session("c")
        for session, text in ((a, "aaa"), (b, "bbb"), (a, "aaaa"), (c, "ccc")):
            await collect(scheduler.submit(session, ask(text)))
        assert b.slot is None
        assert (a.slot, c.slot) != (None, None)
        request = ask("bbbb")
        text, done = await collect(scheduler.submit(b, request))
        assert text == alone(request)
        assert done.cached_tokens == 1  # only what every prompt begins with
        assert a.slot is None

    serve(executor, test)


def test_a_full_queue_says_so_and_loses_nothing() -> None:
    executor = ToyExecutor(slots=2)

    async def test(scheduler: Scheduler) -> None:
        requests = [ask(f"number {index}") for index in range(5)]
        answers = [scheduler.submit(Session(str(i)), r) for i, r in enumerate(requests)]
        with pytest.raises(BusyError) as caught:
            scheduler.submit(Session("late"), ask("late"))
        assert caught.value.place == 3
        assert 100 <= caught.value.retry_ms <= 60_000
        assert scheduler.status()["waiting"] == 5
        for answer, request in zip(answers, requests, strict=True):
            assert (await collect(answer))[0] == alone(request)
        await collect(scheduler.submit(Session("late"), ask("late")))

    serve(executor, test, queue=3)


def test_a_session_that_is_answering_is_busy() -> None:
    async def test(scheduler: Scheduler) -> None:
        session = Session("a")
        answer = scheduler.submit(session, ask("one"))
        with pytest.raises(BusyError):
            scheduler.submit(session, ask("two"))
        answer.stop()
        text, _ = await collect(scheduler.submit(session, ask("two")))
        assert text == alone(ask("two"))

    serve(ToyExecutor(), test)


def test_stop_ends_an_answer_at_once_and_feeds_no_further_token() -> None:
    executor = ToyExecutor()

    async def test(scheduler: Scheduler) -> None:
        request = ask("hello", -1)
        answer = scheduler.submit(Session("a"), request)
        events = []
        async for event in answer:
            events.append(event)
            if len(events) == 3:
                fed = len(executor.record)
                answer.stop()
                answer.stop()
        assert isinstance(events[-1], Done)
        assert events[-1].reason == "cancel"
        assert events[-1].tokens >= len(events) - 1 == 3
        await asyncio.sleep(0.05)
        assert len(executor.record) <= fed + 1

    serve(executor, test)


def test_stop_works_in_the_queue_and_within_a_prompt() -> None:
    executor = ToyExecutor(slots=1, rows=2)

    async def test(scheduler: Scheduler) -> None:
        running = scheduler.submit(Session("a"), Request(LONG, GREEDY, 4))
        waiting = scheduler.submit(Session("b"), ask("x"))
        while not executor.record:
            await asyncio.sleep(0)
        for answer in (waiting, running):
            answer.stop()
            text, done = await collect(answer)
            assert (text, done.reason, done.tokens) == ("", "cancel", 0)
        await asyncio.sleep(0.05)
        assert len(executor.record) < 5

    serve(executor, test)


def test_nobody_who_decodes_misses_a_step_for_a_long_prompt() -> None:
    executor = ToyExecutor(context=9000, rows=64)

    async def test(scheduler: Scheduler) -> None:
        streaming = scheduler.submit(Session("a"), ask("a", -1))
        async for _ in streaming:
            break
        prompts = [[BOS, *(letter * 400).encode()] for letter in "bc"]
        long = [scheduler.submit(Session(""), Request(one, GREEDY, 2)) for one in prompts]
        for answer in long:
            await collect(answer)
        streaming.stop()

    serve(executor, test)
    runs = [
        dict(zip(slots, counts, strict=True))
        for call, slots, counts in executor.record
        if call == "run"
    ]
    assert all(run[0] == 1 for run in runs[1:]), "a row in every step"
    assert max(sum(run.values()) for run in runs) <= 64
    assert sum(next(run for run in runs if len(run) > 1).values()) <= 33
    begun = [slot for run in runs[1:] for slot, count in run.items() if count > 1]
    assert begun[:6] in ([1, 2] * 3, [2, 1] * 3), "prompts take turns"


def test_decoding_sessions_share_a_step() -> None:
    executor = ToyExecutor()

    async def test(scheduler: Scheduler) -> None:
        answers = [scheduler.submit(Session(n), ask(n, 20)) for n in "abcd"]
        for answer in answers:
            await collect(answer)

    serve(executor, test)
    assert sum(len(slots) == 4 for _, slots, _ in executor.record) >= 15


def test_only_the_answer_that_breaks_the_model_fails() -> None:
    executor = ToyExecutor()
    executor.fail_on = {BROKEN}

    async def test(scheduler: Scheduler) -> None:
        bias = Sampling(temperature=0, logit_bias={BROKEN: 1000.0})
        requests = [ask(text, 20) for text in ("good", "fine")]
        good = [scheduler.submit(Session(""), request) for request in requests]
        bad = scheduler.submit(Session("bad"), ask("x", 20, sampling=bias))
        with pytest.raises(BackendError, match=r"RuntimeError: the toy breaks") as caught:
            await collect(bad)
        assert isinstance(caught.value.__cause__, RuntimeError)
        for answer, request in zip(good, requests, strict=True):
            assert (await collect(answer))[0] == alone(request)
        shared = next(slots for call, slots, _ in executor.record if len(slots) == 3)
        assert shared == (0, 1, 2), "the broken one was in a step with the others"
        # Its slot counts as empty, and the session can go on.
        again, done = await collect(scheduler.submit(bad.session, ask("x", 20)))
        assert again == alone(ask("x", 20))
        assert done.cached_tokens == 0

    serve(executor, test)


def test_an_unexpected_error_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    executor = ToyExecutor()
    executor.fail_on = {BROKEN}

    async def test(scheduler: Scheduler) -> None:
        with pytest.raises(BackendError):
            await collect(scheduler.submit(Session("bad"), Request([BOS, BROKEN])))

    with caplog.at_level(logging.ERROR):
        serve(executor, test)
    (record,) = caplog.records
    assert record.name == "edgellm.answer"
    assert "bad: an answer failed" in caplog.text
    assert "in _run" in caplog.text
    assert "RuntimeError: the toy breaks" in caplog.text


def test_a_complete_answer_is_still_delivered_after_close() -> None:
    async def main() -> None:
        async with Scheduler(ToyExecutor(), ToyTokenizer()) as scheduler:
            answer = scheduler.submit(Session("a"), ask("a"))
            while not answer.ended:
                await asyncio.sleep(0)
        assert (await collect(answer))[0] == alone(ask("a"))

    asyncio.run(main())


def test_a_prompt_that_breaks_the_model_fails_alone() -> None:
    executor = ToyExecutor()
    executor.fail_on = {BROKEN}

    async def test(scheduler: Scheduler) -> None:
        good = scheduler.submit(Session("good"), ask("good", 20))
        with pytest.raises(BackendError):
            await collect(scheduler.submit(Session("bad"), Request([*LONG, BROKEN, 1])))
        assert (await collect(good))[0] == alone(ask("good", 20))

    serve(executor, test)


def test_a_copy_that_fails_leaves_an_empty_slot() -> None:
    class NoCopy(ToyExecutor):
        def copy(self, source: int, target: int, length: int) -> None:
            self.memory[target] = -1
            raise MemoryError

    async def test(scheduler: Scheduler) -> None:
        request = Request(LONG, GREEDY, 4)
        await collect(scheduler.submit(Session("a"), request))
        session = Session("b")
        with pytest.raises(BackendError, match="MemoryError"):
            await collect(scheduler.submit(session, request))
        assert session.slot is not None
        assert session.slot.tokens == []

    serve(NoCopy(), test)


def test_a_sampler_that_raises_fails_its_answer_only(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = Sampler.sample

    def broken(self: Sampler, logits: NDArray[np.float32], history: Sequence[int]) -> int:
        if history[1] == ord("x"):
            raise PluginError("mine", "broken")
        return sample(self, logits, history)

    monkeypatch.setattr(Sampler, "sample", broken)

    async def test(scheduler: Scheduler) -> None:
        good = scheduler.submit(Session("good"), ask("good"))
        with pytest.raises(PluginError, match="mine"):
            await collect(scheduler.submit(Session("bad"), ask("x")))
        assert (await collect(good))[0] == alone(ask("good"))

    serve(ToyExecutor(), test)


def test_requests_that_cannot_work_are_refused_at_once() -> None:
    async def test(scheduler: Scheduler) -> None:
        session = Session("a")
        with pytest.raises(ContextError, match="97 tokens"):
            scheduler.submit(session, Request([1] * 97))
        with pytest.raises(UsageError):
            scheduler.submit(session, Request([]))
        with pytest.raises(UsageError, match="nonsense"):
            scheduler.submit(session, ask("x", sampling=Sampling(samplers=("nonsense",))))
        text, done = await collect(scheduler.submit(session, ask("x", 0, echo="x")))
        assert (text, done.reason, done.tokens) == ("x", "length", 0)
        text, done = await collect(scheduler.submit(session, ask("x", -1)))
        assert (done.reason, done.tokens) == ("length", 95)

    serve(ToyExecutor(), test)


def test_close_ends_all_answers_and_the_step_under_way() -> None:
    executor = ToyExecutor(slots=1)
    executor.gate = threading.Event()

    async def main() -> None:
        async with Scheduler(executor, ToyTokenizer()) as scheduler:
            answers = [scheduler.submit(Session(n), ask(n)) for n in "abc"]
            while not executor.record:
                await asyncio.sleep(0)
            async with asyncio.timeout(5):
                await scheduler.close()
            for answer in answers:
                assert (await collect(answer))[1].reason == "cancel"
            with pytest.raises(BackendError, match="shutting down"):
                scheduler.submit(Session("late"), ask("late"))

    asyncio.run(main())
    assert [call for call, _, _ in executor.record] == ["run", "close"]


def test_a_cancelled_service_still_closes_in_good_order() -> None:
    executor = ToyExecutor(slots=1, context=100_000)
    answers = []

    async def main() -> None:
        async with Scheduler(executor, ToyTokenizer()) as scheduler:
            answers.append(scheduler.submit(Session("a"), ask("a", -1)))
            await asyncio.Event().wait()

    async def cancelled() -> None:
        task = asyncio.create_task(main())
        while not executor.record:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await collect(answers[0]))[1].reason == "cancel"

    asyncio.run(cancelled())
    assert executor.closed


def test_a_bug_in_a_turn_fails_its_answers_but_not_the_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(scheduler: Scheduler) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(scheduler, "_pick", lambda: 1 / 0)
            with pytest.raises(BackendError, match="ZeroDivisionError"):
                await collect(scheduler.submit(Session("a"), ask("a")))
        assert (await collect(scheduler.submit(Session("a"), ask("a"))))[0] == alone(ask("a"))

    serve(ToyExecutor(), test)


def test_release_stops_the_answer_and_frees_the_slot() -> None:
    async def test(scheduler: Scheduler) -> None:
        session = Session("a")
        answer = scheduler.submit(session, ask("hello", -1))
        async for _ in answer:
            scheduler.release(session)
        assert answer.ended
        assert session.slot is None
        text, _ = await collect(scheduler.submit(session, ask("hello")))
        assert text == alone(ask("hello"))
        scheduler.release(Session("never heard of"))

    serve(ToyExecutor(slots=1), test)


async def order(scheduler: Scheduler, requests: list[Request]) -> list[int]:
    """By which of the requests, put all at once, ended first."""
    ended: list[int] = []

    async def wait(number: int, answer: Answer) -> None:
        assert (await collect(answer))[0] == alone(requests[number])
        ended.append(number)

    async with asyncio.TaskGroup() as group:
        for number, request in enumerate(requests):
            answer = scheduler.submit(Session(str(number)), request)
            group.create_task(wait(number, answer))
    return ended


DEVICE, PERSON, BATCH = Priority


def test_devices_go_before_people_before_batch_jobs() -> None:
    async def test(scheduler: Scheduler) -> None:
        classes = [BATCH, PERSON, DEVICE, PERSON, DEVICE]
        requests = [ask(str(n), 40, priority=one) for n, one in enumerate(classes)]
        assert await order(scheduler, requests) == [2, 4, 1, 3, 0]

    serve(ToyExecutor(slots=1), test)


def test_a_slot_is_given_up_to_a_higher_class_and_nothing_is_lost() -> None:
    executor = ToyExecutor(slots=2)

    async def test(scheduler: Scheduler) -> None:
        executor.gate = threading.Event()
        requests = [ask(f"job {n}", 60, priority=BATCH) for n in range(2)]
        jobs = [scheduler.submit(Session(str(n)), one) for n, one in enumerate(requests)]
        while not executor.record:
            await asyncio.sleep(0)
        urgent = ask("now", 5, priority=DEVICE)
        answer = scheduler.submit(Session("device"), urgent)
        executor.gate.set()
        assert (await collect(answer))[0] == alone(urgent)
        assert not jobs[1].ended
        for job, request in zip(jobs, requests, strict=True):
            assert (await collect(job))[0] == alone(request)

    serve(executor, test)


def test_a_batch_job_is_passed_for_long_but_not_for_ever() -> None:
    async def test(scheduler: Scheduler) -> None:
        job = ask("job", 50, priority=BATCH)
        passed = 0
        over = asyncio.Event()

        async def devices(name: str) -> None:
            nonlocal passed
            while not over.is_set():
                await collect(scheduler.submit(Session(name), ask(name, 4, priority=DEVICE)))
                passed += 1

        async with asyncio.TaskGroup() as group:
            for name in "abc":
                group.create_task(devices(name))
            await asyncio.sleep(0)
            answer = scheduler.submit(Session("job"), job)
            assert (await collect(answer))[0] == alone(job)
            over.set()
        assert passed >= 2 * PATIENCE

    serve(ToyExecutor(slots=1), test)


def test_a_class_waits_only_behind_its_equals_and_betters() -> None:
    executor = ToyExecutor(slots=1)
    executor.gate = threading.Event()

    async def test(scheduler: Scheduler) -> None:
        submitted = [
            scheduler.submit(Session(""), ask("x", 1, priority=one))
            for one in (BATCH, BATCH, BATCH, PERSON, PERSON, DEVICE)
        ]
        with pytest.raises(BusyError) as caught:
            scheduler.submit(Session(""), ask("x", priority=BATCH))
        assert caught.value.place == 5
        status = scheduler.status()
        assert executor.gate is not None
        executor.gate.set()
        for answer in submitted:
            await collect(answer)
        names = ("waiting", "waiting_device", "waiting_person", "waiting_batch")
        assert [status[name] for name in names] == [6, 1, 2, 3]

    serve(executor, test, queue=3)


def test_a_deadline_in_the_queue_is_an_error_and_later_an_end() -> None:
    executor = ToyExecutor(slots=1, context=100_000)

    async def test(scheduler: Scheduler) -> None:
        endless = scheduler.submit(Session("a"), ask("a", -1, deadline_s=0.2))
        late = scheduler.submit(Session("b"), ask("b", deadline_s=0.01))
        with pytest.raises(ExpiredError, match=r"within 0\.01 s"):
            await collect(late)
        text, done = await collect(endless)
        assert done.reason == "deadline"
        assert 0.2 <= done.seconds < 10
        assert alone(ask("a", len(text)), context=100_000) == text
        text, done = await collect(scheduler.submit(Session("b"), ask("b", deadline_s=9)))
        assert (text, done.reason) == (alone(ask("b")), "length")

    serve(executor, test)


def test_stop_cancels_a_call_in_which_nobody_else_is() -> None:
    executor = ToyExecutor(slots=2, rows=128)
    executor.gate = threading.Event()

    async def test(scheduler: Scheduler) -> None:
        one, two = (scheduler.submit(Session(n), ask(n * 40)) for n in "ab")
        while not executor.record:
            await asyncio.sleep(0)
        one.stop()
        await asyncio.sleep(0.02)
        assert len(executor.record) == 1, "the other is still in it"
        two.stop()
        assert executor.gate is not None
        again = scheduler.submit(Session("c"), ask("c"))
        while len(executor.record) == 1:
            await asyncio.sleep(0)
        executor.gate.set()
        assert (await collect(again))[0] == alone(ask("c"))

    serve(executor, test)


def test_equal_prompts_that_come_at_once_are_computed_once() -> None:
    executor = ToyExecutor(rows=16)

    async def test(scheduler: Scheduler) -> None:
        requests = [Request([*LONG, *own], GREEDY, 4) for own in (b"a", b"b", b"b", b"")]
        answers = [scheduler.submit(Session(""), request) for request in requests]
        for answer, request in zip(answers, requests, strict=True):
            assert (await collect(answer))[0] == alone(request)

    serve(executor, test)
    fed = sum(sum(counts) for call, _, counts in executor.record if call == "run")
    assert fed < len(LONG) + 4 * (WORTHWHILE + 1 + 4)


def test_a_beginning_is_taken_from_one_who_is_still_answering() -> None:
    executor = ToyExecutor()

    async def test(scheduler: Scheduler) -> None:
        first = scheduler.submit(Session("a"), Request(LONG, GREEDY, 30))
        async for _ in first:
            break
        request = Request([*LONG, *b"too"], GREEDY, 4)
        text, done = await collect(scheduler.submit(Session("b"), request))
        assert (text, done.cached_tokens) == (alone(request), len(LONG))
        first.stop()

    serve(executor, test)


def test_an_answer_that_rolls_goes_on_among_others() -> None:
    executor = ToyExecutor(context=96)

    async def test(scheduler: Scheduler) -> None:
        requests = [ask(f"number {n}", 300, keep=n) for n in range(4)]
        answers = [scheduler.submit(Session(""), request) for request in requests]
        for answer, request in zip(answers, requests, strict=True):
            text, done = await collect(answer)
            assert (text, done.tokens) == (alone(request), 300)

    serve(executor, test)


def test_status_counts() -> None:
    async def test(scheduler: Scheduler) -> None:
        await collect(scheduler.submit(Session("a"), ask("hello")))
        status = scheduler.status()
        assert (status["answering"], status["waiting"], status["slots"]) == (0, 0, 4)
        assert status["batch"] == 1
        assert isinstance(status["tokens_per_second"], float)
        assert status["tokens_per_second"] > 0

    serve(ToyExecutor(), test)
