"""Framed opposite the model of a device."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable

import pytest
from framed_peer import SOAK, connect
from line_simulator import BAD, CLEAN, Conditions, Line
from scripted import ScriptedService
from toy_executor import ToyExecutor, ToyTokenizer
from virtual_time import Cable, Plug, now, run

from edgellm.channel import Text
from edgellm.errors import (
    LinkError,
)
from edgellm.framed import Framed
from edgellm.link.device import Device
from edgellm.link.events import Answered, Piece, Refused
from edgellm.link.messages import (
    Note,
)
from edgellm.sampling import Sampling
from edgellm.scheduler import Scheduler
from edgellm.service import Conversations
from edgellm.session import Message as ChatMessage


async def attach(device: Device, wire: Plug, heard: Callable[[object], None]) -> None:
    """Drive a device until the line is cut."""
    device.connected(now())
    try:
        while True:
            if data := device.output(now()):
                await wire.write(data)
                continue
            try:
                async with asyncio.timeout_at(device.deadline()):
                    data = await wire.read()
            except TimeoutError:
                continue
            for event in device.receive(data, now()):
                heard(event)
    except LinkError:
        device.lost()


class User:
    """Puts one question after the other to a device and keeps what comes."""

    def __init__(self, device: Device, questions: list[str]) -> None:
        self.device = device
        self.answers: list[str] = []
        self.finished = asyncio.Event()
        self.back: float | None = None
        """When the line came back, until the answer goes on."""
        self.waits: list[float] = []
        """How long that took each time."""
        self._questions = iter(questions)
        self._ask()

    def _ask(self) -> None:
        question = next(self._questions, None)
        if question is None:
            self.finished.set()
        else:
            self.device.ask(question)
            self.answers.append("")

    def hear(self, event: object) -> None:
        if isinstance(event, Piece | Answered) and self.back is not None:
            self.waits.append(now() - self.back)
            self.back = None
        match event:
            case Piece(text):
                self.answers[-1] += text
            case Answered():
                self._ask()
            case Refused():
                raise AssertionError(event)


async def plug_in(
    framed: Framed, cable: Cable, user: User, seconds: float, pieces: int = -1
) -> None:
    """Let them talk for so long, or so many pieces of answers, or until all is said."""

    def hear(event: object) -> None:
        nonlocal pieces
        user.hear(event)
        pieces -= isinstance(event, Piece)
        if user.finished.is_set() or pieces == 0:
            cable.cut()

    user.back = now()
    attached = attach(user.device, cable.ends[1], hear)
    talk = asyncio.gather(framed.run(), attached, return_exceptions=True)
    await asyncio.wait([talk], timeout=seconds)
    cable.cut()
    lost, failed = await talk
    assert isinstance(lost, LinkError)
    assert failed is None


def answer_to(question: str) -> list[object]:
    """A text of 0 to 4 KB in pieces, with pauses."""
    noise = random.Random(question)
    pieces: list[object] = []
    for _ in range(noise.choice([0, 1, noise.randrange(100), noise.randrange(700)])):
        pieces.append("".join(noise.choices("abc dé🙂\n", k=noise.randrange(1, 8))))
        if noise.random() < 0.5:
            pieces.append(noise.choice([0.001, 0.01]))
    return pieces


@pytest.mark.parametrize("conditions", [CLEAN, BAD], ids=["clean", "bad"])
def test_answers_arrive_exactly_once_whatever_the_line_does(conditions: Conditions) -> None:
    count = 2000 if SOAK else 20
    noise = random.Random(7)

    async def main() -> None:
        service = ScriptedService(answer_to)
        questions = [f"question {number}" for number in range(count)]
        device = Device("greenhouse")
        user = User(device, questions)
        lines = 0
        while not user.finished.is_set():
            lines += 1
            cable = Cable(Line(conditions, lines))
            framed = Framed(cable.ends[0], service, f"line#{lines}", baud=conditions.baud)
            await plug_in(framed, cable, user, noise.expovariate(1 / 0.5))
            await asyncio.sleep(noise.uniform(0, 1))
            assert now() < 60 * count
        assert user.answers == [
            "".join(piece for piece in answer_to(question) if isinstance(piece, str))
            for question in questions
        ]
        assert [text for _, text in service.asked] == questions  # nothing was generated twice
        assert lines > 3
        if conditions is CLEAN:
            assert max(user.waits) < 1

    run(main())


def test_answers_of_a_model_arrive_exactly_once() -> None:
    questions = [f"question {number}" for number in range(4)]

    def chat(messages: Iterable[ChatMessage]) -> str:
        return "".join(f"<turn>{m['role'][0]}{m['content']}<eos>" for m in messages) + "<turn>a"

    async def main() -> None:
        scheduler = Scheduler(ToyExecutor(context=4096), ToyTokenizer())
        greedy = Sampling(temperature=0)
        async with scheduler:
            service = Conversations(scheduler, ToyTokenizer(), chat, sampling=greedy, max_tokens=99)
            device = Device("greenhouse")
            user = User(device, questions)
            lines = 0
            while not user.finished.is_set():
                lines += 1
                cable = Cable(Line(CLEAN, lines))
                framed = Framed(cable.ends[0], service, f"line#{lines}")
                await plug_in(framed, cable, user, seconds=20, pieces=1)
            expected = []
            for question in questions:
                pieces = [event async for event in service.ask("directly", question)]
                expected.append("".join(one.text for one in pieces if isinstance(one, Text)))
            assert user.answers == expected
            assert all(expected)
            assert lines >= len(questions)

    asyncio.run(main())


def test_devices_are_told_of_the_machine_and_of_what_still_holds() -> None:
    service = ScriptedService()

    async def main() -> None:
        async with connect(service) as peer:
            service.notices.tell("it is hot", holds=True)
            assert await peer.next(Note) == Note("it is hot")
        async with connect(service) as peer:
            assert await peer.next(Note) == Note("it is hot")
            service.notices.tell("it is cool again")
            assert await peer.next(Note) == Note("it is cool again")
        service.notices.tell("to nobody")

    run(main())
