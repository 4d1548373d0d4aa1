"""Sessions that come, go, share beginnings, hurry and give up in any order: each answer is what the
model tells its session alone, token for token."""

from __future__ import annotations

import asyncio
import concurrent.futures
import heapq
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest
from toy_executor import BOS, EOS, ToyExecutor, ToyTokenizer, adapted

import edgellm
from edgellm import checkpoint
from edgellm import runner as running
from edgellm.answer import Answer, Request
from edgellm.channel import Call, Done, Priority, Text
from edgellm.errors import BusyError, ContextError, ExpiredError, UsageError
from edgellm.generation import Piece, SingleSlot, generate
from edgellm.runner import Fallback, Watch
from edgellm.sampling import Sampler, Sampling
from edgellm.scheduler import Scheduler
from edgellm.service import Conversations
from edgellm.session import Session
from edgellm.tools.call_form import OWN
from edgellm.tools.grammar import Grammars
from edgellm.tools.tool import Tool
from edgellm.turn import Turn
from edgellm.worker import Worker

SYSTEM = b"You are the lamp of this house."
SEEDS = 20_000 if os.environ.get("EDGELLM_SOAK") else 1000
"""Interleavings; a tenth of them with tools but in a soak, where that's all."""


class Inline(Worker):
    """Runs the worker's calls in the event loop's thread, so that a seed gives one order."""

    def __init__(self, name: str) -> None:
        pass

    def alive(self) -> bool:
        return True

    def give_up_after(self, seconds: float) -> bool:
        return False

    def close(self) -> None:
        pass

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)
        return future


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time the test sets."""

    now = 0.0

    def time(self) -> float:
        return self.now


def alone(request: Request, context: int, ends: int) -> tuple[str, str]:
    """Text and reason of the end, computed anew from the beginning for each token."""
    model, tokenizer = ToyExecutor(ends=ends), ToyTokenizer()
    sampler = Sampler(request.sampling, tokenizer)
    tokens, text, drawn = list(request.tokens), "", 0
    keep = min(request.keep or 0, context // 2)
    while request.max_tokens < 0 or drawn < request.max_tokens:
        logits = model._logits(adapted(np.array(tokens), request.strengths))
        token = sampler.sample(logits, tokens)
        tokens, drawn = [*tokens, token], drawn + 1
        if token == EOS:
            return text, "stop"
        text += chr(token)
        if len(tokens) > context:
            if request.keep is None:
                return text, "length"
            rest = tokens[keep:]
            tokens = tokens[:keep] + rest[len(rest) - len(rest) // 2 :]
    return text, "length"


class Story:
    """What happens around one scheduler: `at` sets events to steps of the model or, while it has
    nothing to do, to turns of the event loop."""

    def __init__(self, seed: int, loop: Loop) -> None:
        self.random = Random(seed)
        self.loop = loop
        slots = self.random.randint(1, 4)
        self.executor = ToyExecutor(
            context=self.random.randint(24, 70),
            slots=slots,
            rows=slots + self.random.randint(1, 30),
            ends=self.random.choice([0, 0, 25]),
        )
        self.executor.during = self.step
        self.lost = self.random.choice([0, 0, self.random.randint(1, 60)])
        """The step at which the device is lost, if it is."""
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.counter = itertools.count()
        self.steps = 0
        self.tasks: list[asyncio.Task[None]] = []
        self.compared = self.complete = 0

    def at(self, step: int, event: Callable[[], None]) -> None:
        heapq.heappush(self.events, (step, next(self.counter), event))

    def step(self) -> None:
        """What happens during a step of the model."""
        self.pass_time()
        if self.lost and self.steps >= self.lost:
            raise RuntimeError("the device is lost")

    def other(self) -> ToyExecutor:
        """What takes over then."""
        executor = ToyExecutor(
            self.executor.context, self.executor.slots, self.executor.max_rows, self.executor.ends
        )
        executor.during = self.pass_time
        return executor

    def pass_time(self) -> None:
        self.steps += 1
        self.loop.now += 0.01
        while self.events and self.events[0][0] <= self.steps:
            heapq.heappop(self.events)[2]()

    async def tell(self) -> None:
        watch = Watch("lost", Fallback("other", self.other))
        async with Scheduler(self.executor, ToyTokenizer(), queue=3, watch=watch) as scheduler:
            self.scheduler = scheduler
            for number in range(self.random.randint(2, 8)):
                requests = [self.request(number) for _ in range(self.random.randint(1, 3))]
                self.visit(Session(str(number)), iter(requests))
            while self.events or not all(task.done() for task in self.tasks):
                before = self.steps
                await asyncio.sleep(0)
                if self.steps == before:
                    self.pass_time()
        for task in self.tasks:
            task.result()

    def request(self, number: int) -> Request:
        random, context = self.random, self.executor.context
        prompt = [BOS, *SYSTEM[: random.choice([0, 20, len(SYSTEM)])]]
        if random.random() < 0.7:  # else just as others ask
            prompt += f"{number}{'abc'[: random.randint(1, 3)] * random.randint(0, 9)}".encode()
        return Request(
            prompt[:context],
            Sampling(
                temperature=random.choice([0, 1.5]),
                seed=random.randrange(10),
                samplers=("temperature",),
            ),
            max_tokens=random.choice([0, 1, 3, 9, 27]),
            keep=random.choice([None, None, 0, 1, 20, 99]),
            priority=random.choice(list(Priority)),
            deadline_s=random.choice([None, None, None, 0.05, 0.5]),
            strengths=random.choice([(0.0,), (0.0,), (0.5,), (1.0,)]),
        )

    def visit(self, session: Session, requests: Iterator[Request]) -> None:
        """Put the next request to the scheduler some time, then the one after it, …"""
        request = next(requests, None)
        if request is None:
            if self.random.random() < 0.5:
                self.scheduler.release(session)
            return

        def ask() -> None:
            try:
                answer = self.scheduler.submit(session, request)
            except BusyError:
                self.at(self.steps + 3, ask)
                return
            stop = self.random.random() < 0.2
            if stop:
                self.at(self.steps + self.random.randrange(12), answer.stop)
            check = self.check(answer, request, stop, lambda: self.visit(session, requests))
            self.tasks.append(self.loop.create_task(check))

        self.at(self.steps + self.random.randrange(20), ask)

    async def check(
        self, answer: Answer, request: Request, stop: bool, after: Callable[[], None]
    ) -> None:
        text, reason = "", ""
        try:
            async for event in answer:
                match event:
                    case Text(piece):
                        text += piece
                    case Done():
                        reason = event.reason
        except ExpiredError:
            reason = "deadline"
        whole, end = alone(request, self.executor.context, self.executor.ends)
        self.compared += len(text)
        early = [("cancel", stop), ("deadline", request.deadline_s is not None)]
        if (reason, True) in early:
            assert whole.startswith(text)
        else:
            assert (text, reason) == (whole, end)
            self.complete += 1
        after()


def tell(seeds: range) -> tuple[int, int]:
    """Characters compared, answers that came to their own end."""
    compared = complete = 0
    for seed in seeds:
        with asyncio.Runner(loop_factory=Loop) as runner:
            loop = runner.get_loop()
            assert isinstance(loop, Loop)
            story = Story(seed, loop)
            runner.run(story.tell())
        compared += story.compared
        complete += story.complete
    return compared, complete


@pytest.mark.parametrize("seed", range(0, SEEDS, 100))
def test_every_answer_is_as_if_its_session_were_alone(
    seed: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(running, "Worker", Inline)
    caplog.set_level("DEBUG", "edgellm")
    compared, complete = tell(range(seed, seed + 100))
    assert compared > 3000
    assert complete > 500
    # Nothing is told but what becomes of lost devices.
    assert {record.name for record in caplog.records} == {"edgellm.runner"}
    assert len(caplog.records) > 10


def test_and_so_it_is_with_a_thread_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def later(story: Story) -> None:
        story.loop.call_soon_threadsafe(story.pass_time)

    monkeypatch.setattr(Story, "step", later)
    compared, complete = tell(range(1000, 1040))
    assert compared > 1000
    assert complete > 200


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize(("kind", "count", "longest"), [("bundle", 200, 50), ("jit", 24, 9)])
def test_a_real_model_tells_each_session_the_same_as_alone(
    kind: str, count: int, longest: int
) -> None:
    path = Path(__file__).parent / "data" / "models" / "llama" / "model.gguf"
    if kind == "bundle":
        model = edgellm.load(path, context=48, slots=3)
        executor = model.executor
    else:
        from edgellm.jit_executor import JitExecutor

        executor = JitExecutor(checkpoint.open(path), context=48, slots=3, chunk=8)
    random, vocab = Random(5), executor.config.vocab
    starts = [[random.randrange(vocab) for _ in range(20)] for _ in range(2)]

    def request() -> Request:
        own = [random.randrange(vocab) for _ in range(random.randint(1, 12))]
        sampling = Sampling(temperature=random.choice([0, 1.0]), seed=random.randrange(9))
        start = random.choice(starts)[: random.choice([0, 8, 20])]
        return Request(
            start + own,
            sampling,
            max_tokens=random.randint(1, longest),
            keep=random.choice([None, 4]),
            priority=random.choice(list(Priority)),
        )

    async def visit(scheduler: Scheduler, request: Request) -> list[int | None]:
        await asyncio.sleep(random.random() * 0.3)
        answer = scheduler.submit(Session(""), request)
        drawn: list[int | None] = []
        accept = answer.generation.accept

        def watched(token: int) -> Piece:
            drawn.append(token)
            return accept(token)

        answer.generation.accept = watched  # type: ignore[method-assign]
        async for _ in answer:
            pass
        return drawn

    async def main(requests: list[Request]) -> list[list[int | None]]:
        async with Scheduler(executor, ToyTokenizer(), queue=len(requests)) as scheduler:
            return await asyncio.gather(*(visit(scheduler, one) for one in requests))

    requests, expected, single = [request() for _ in range(count)], [], SingleSlot(executor)
    for one in requests:
        pieces = generate(
            single, ToyTokenizer(), one.tokens, one.sampling, one.max_tokens, keep=one.keep
        )
        expected.append([piece.token for piece in pieces])
    assert asyncio.run(main(requests)) == expected


class Household:
    """Devices that declare tools, ask, answer calls late, and listen again from somewhere."""

    FORM = replace(OWN, mark="~")  # which the toy writes now and then
    SAMPLING = Sampling(seed=1, logit_bias={ord("~"): 1.2}, samplers=("logit_bias", "temperature"))

    def __init__(self, seed: int, grammars: Grammars) -> None:
        random = Random(seed)
        self.grammars = grammars
        self.context = random.randint(350, 600)
        self.slots = random.randint(1, 4)
        self.devices = [
            Device(f"{seed}-{number}", random.randrange(10**9))
            for number in range(random.randint(2, 8))
        ]

    async def together(self) -> None:
        async with self.service(self.slots) as service:
            await asyncio.gather(*(device.live(service, hurried=True) for device in self.devices))

    async def apart(self) -> None:
        for device in self.devices:
            async with self.service(1) as service:
                await device.live(service, hurried=False)

    @asynccontextmanager
    async def service(self, slots: int) -> AsyncIterator[Conversations]:
        executor = ToyExecutor(self.context, slots, rows=slots + 20, ends=25)
        async with Scheduler(executor, ToyTokenizer(), queue=20) as scheduler:
            service = Conversations(
                scheduler,
                ToyTokenizer(),
                chat,
                sampling=self.SAMPLING,
                max_tokens=40,
            )
            service._grammars, service._form = self.grammars, lambda: self.FORM
            yield service


class Heard(NamedTuple):
    text: bytes
    calls: dict[int, tuple[str, object]]
    reason: str


class Device:
    def __init__(self, name: str, seed: int) -> None:
        self.name, self.seed = name, seed
        self.heard: list[list[Heard | str]] = []
        """Answers and errors that it gets, run by run; the same each time."""

    async def live(self, service: Conversations, hurried: bool) -> None:
        random, moods = Random(self.seed), Random(f"{self.seed} {hurried}")
        heard: list[Heard | str] = []
        for number in range(1, random.randint(2, 4)):
            service.declare(self.name, random.choice([TOOLS, TOOLS[:1], []]))
            question = f"canary {self.name} {'x' * random.choice([*range(10), 600])}"
            schema = {"type": f"canary {self.name} "} if random.random() < 0.1 else None
            for _ in range(moods.randrange(30)):
                await asyncio.sleep(0)
            try:
                turn = service.ask(self.name, question, number=number, schema=schema)
            except (ContextError, UsageError) as error:
                heard.append(str(error))
            else:
                heard.append(await self.listen(turn, moods))
        self.heard.append(heard)

    async def listen(self, turn: Turn, moods: Random) -> Heard:
        text, calls = b"", {}
        while True:
            patience = moods.randint(1, 30)
            async for event in turn.listen(len(text)):
                match event:
                    case Text(piece):
                        text += piece.encode()
                    case Call():
                        calls[event.number] = (event.name, event.arguments)
                        for _ in range(moods.randrange(9)):
                            await asyncio.sleep(0)
                        turn.result(event.number, True, f"canary {self.name} {event.number}")
                    case Done():
                        assert text.decode() == turn.text
                        return Heard(text, calls, event.reason)
                patience -= 1
                if not patience:  # the line is lost
                    break


def chat(messages: Sequence[Mapping[str, str]]) -> str:
    return "".join(f"<turn>{m['role'][0]}{m['content']}<eos>" for m in messages) + "<turn>a"


TOOLS = [
    Tool("do", "", {"type": "object", "properties": {"n": {"enum": [1, 2]}}}),
    Tool("on", "", {"type": "object", "properties": {"s": {"type": "string", "maxLength": 3}}}),
]


@pytest.mark.parametrize("seed", range(0, SEEDS if SEEDS > 1000 else 100, 50))
def test_devices_with_tools_hear_what_they_would_hear_alone(
    seed: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(running, "Worker", Inline)
    caplog.set_level("DEBUG", "edgellm")
    grammars = Grammars(ToyTokenizer())
    called = refused = 0
    for household in (Household(one, grammars) for one in range(seed, seed + 50)):
        asyncio.run(household.together())
        asyncio.run(household.apart())
        for device in household.devices:
            together, apart = device.heard
            assert together == apart
            others = {other.name for other in household.devices if other is not device}
            assert not any(f"canary {name} " in repr(together) for name in others)
            called += sum(len(one.calls) for one in together if isinstance(one, Heard))
            refused += sum(isinstance(one, str) for one in together)
    assert called > 100
    assert refused > 20
    assert "canary" not in caplog.text
