"""A backend that raises, hangs or returns rubbish: named, and replaced where another is given."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from asking import alone, ask, collect
from numpy.typing import NDArray
from toy_executor import ToyExecutor, ToyTokenizer

from edgellm.errors import BackendError
from edgellm.runner import Fallback, Watch
from edgellm.scheduler import Scheduler
from edgellm.session import Session

Fault = Callable[[NDArray[np.float32]], Any]


class Broken(ToyExecutor):
    """Works for so many calls; then `fault` makes of its logits what it returns."""

    def __init__(self, fault: Fault, after: int = 3, **options: Any) -> None:
        super().__init__(**options)
        self.fault, self.left = fault, after

    def run(
        self,
        tokens: Sequence[int],
        slots: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
    ) -> NDArray[np.float32]:
        logits = super().run(tokens, slots, positions, wanted)
        self.left -= 1
        return logits if self.left >= 0 else self.fault(logits)


def raises(logits: NDArray[np.float32]) -> None:
    raise RuntimeError("the device is lost")


ENOUGH = threading.Event()
"""Set when a test is over: until then what hangs does."""


def never(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    ENOUGH.wait(60)
    return logits


FAULTS: dict[str, tuple[Fault, str]] = {
    "raises": (raises, r"the backend 'odd' failed \(RuntimeError: the device is lost\)"),
    "nan": (lambda logits: logits * np.float32(np.nan), "'odd' returned NaN or infinity"),
    "infinite": (lambda logits: logits + np.float32(np.inf), "'odd' returned NaN or infinity"),
    "shape": (lambda logits: logits[:, :-1], "'odd' returned logits of the shape"),
    "type": (lambda logits: logits.astype(np.float64), "'odd' returned float64 for logits"),
    "nothing": (lambda logits: None, "'odd' returned NoneType for logits"),
    "hangs": (never, "the backend 'odd' hangs: no end of a step within 1 s"),
}

Test = Callable[[Scheduler], Awaitable[None]]


def serve(executor: ToyExecutor, watch: Watch, test: Test) -> None:
    async def main() -> None:
        async with (
            asyncio.timeout(20),
            Scheduler(executor, ToyTokenizer(), watch=watch) as scheduler,
        ):
            await test(scheduler)

    ENOUGH.clear()
    try:
        asyncio.run(main())
    finally:
        ENOUGH.set()
    still = {thread for thread in threading.enumerate() if thread.name.startswith("executor")}
    for thread in still:  # what hung ends by itself here, and harms nobody
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("after", [1, 5])
def test_answers_go_on_token_for_token_where_another_takes_over(
    fault: str, after: int, caplog: pytest.LogCaptureFixture
) -> None:
    made, words = FAULTS[fault]
    broken, sound = Broken(made, after), ToyExecutor(chunk=8, rows=12)
    requests = [ask("the lamp is " + "on " * count, 12) for count in range(1, 7)]

    async def test(scheduler: Scheduler) -> None:
        answers = [scheduler.submit(Session(str(n)), each) for n, each in enumerate(requests)]
        for answer, request in zip(answers, requests, strict=True):
            assert (await collect(answer))[0] == alone(request)
        assert scheduler.status()["backend"] == "cpu"

    patience = 1.0 if fault == "hangs" else 60.0
    serve(broken, Watch("odd", Fallback("cpu", lambda: sound), patience), test)
    assert sound.closed
    assert broken.closed == (fault != "hangs")
    (record,) = [each for each in caplog.records if each.name == "edgellm.runner"]
    assert "'cpu' takes over" in record.message
    assert re.search(words, record.message)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "hangs"])
def test_without_another_the_answer_fails_and_the_service_goes_on(fault: str) -> None:
    made, words = FAULTS[fault]
    broken = Broken(made)

    async def test(scheduler: Scheduler) -> None:
        with pytest.raises(BackendError, match=words):
            await collect(scheduler.submit(Session("a"), ask("a", 20)))
        broken.left = 99  # it has come to its senses
        assert (await collect(scheduler.submit(Session("b"), ask("b"))))[0] == alone(ask("b"))
        assert scheduler.status()["backend"] == "odd"

    serve(broken, Watch("odd"), test)


def test_without_another_a_hang_ends_all_answers_and_refuses_further_ones() -> None:
    async def test(scheduler: Scheduler) -> None:
        answers = [scheduler.submit(Session(name), ask(name, 20)) for name in "abcdef"]
        for answer in answers:
            with pytest.raises(BackendError, match=r"'odd' hangs: no end .* start the service"):
                await collect(answer)
        with pytest.raises(BackendError, match="'odd' hangs"):
            scheduler.submit(Session("late"), ask("late"))
        assert scheduler.status()["backend"] == "broken"

    serve(Broken(never), Watch("odd", patience_s=0.5), test)


def test_what_takes_over_may_fail_to_open() -> None:
    def refuses() -> ToyExecutor:
        raise BackendError("no compiler here")

    async def test(scheduler: Scheduler) -> None:
        with pytest.raises(BackendError, match=r"device is lost.* 'cpu' can't go on: no compiler"):
            await collect(scheduler.submit(Session("a"), ask("a", 20)))

    serve(Broken(raises), Watch("odd", Fallback("cpu", refuses)), test)


def test_a_copy_that_fails_is_met_the_same_way() -> None:
    class NoCopies(ToyExecutor):
        def copy(self, source: int, target: int, length: int) -> None:
            raise RuntimeError("no copies today")

    first, second = ask("the same beginning of both, and one"), ask("the same beginning of both!")

    async def test(scheduler: Scheduler) -> None:
        for session, request in (("a", first), ("b", second)):
            answer = scheduler.submit(Session(session), request)
            assert (await collect(answer))[0] == alone(request)
        assert scheduler.status()["backend"] == "cpu"

    serve(NoCopies(), Watch("odd", Fallback("cpu", ToyExecutor)), test)


def test_slow_is_no_hang() -> None:
    """A step may take twenty times what the slowest one took."""
    executor = ToyExecutor()
    executor.during = lambda: time.sleep(0.1)

    async def test(scheduler: Scheduler) -> None:
        text, _ = await collect(scheduler.submit(Session("a"), ask("a", 5)))
        assert text == alone(ask("a", 5))

    serve(executor, Watch("odd", patience_s=0.1), test)


@pytest.mark.parametrize("patience", [0.2, 0])
def test_the_first_step_has_ten_times_the_patience_and_zero_waits_for_ever(
    patience: float,
) -> None:
    executor = ToyExecutor()

    def slow_at_first() -> None:
        executor.during = lambda: None
        time.sleep(0.4)

    async def test(scheduler: Scheduler) -> None:
        text, _ = await collect(scheduler.submit(Session("a"), ask("a", 5)))
        assert text == alone(ask("a", 5))

    executor.during = slow_at_first
    serve(executor, Watch("odd", patience_s=patience), test)
