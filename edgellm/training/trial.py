"""Trials: what a model does with a device's tools, asked as a device's user would ask it.

The way is the one of `edgellm serve`: template, scheduler and the grammar of the tools.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal, cast, get_args

from edgellm import chat
from edgellm.channel import Call, Text
from edgellm.errors import EdgeError
from edgellm.runtime import Model
from edgellm.sampling import Sampling
from edgellm.scheduler import Scheduler
from edgellm.service import Conversations
from edgellm.tools.tool import Tool
from edgellm.training import devices
from edgellm.training.devices import Held, catalogue, lesson, toolless
from edgellm.training.prompt_form import CONTROL

Calls = tuple[tuple[str, Mapping[str, object]], ...]
"""Names and arguments, in order."""
Kind = Literal["asks", "declines", "talks"]
"""What an answer without a call does: asks for what is missing, says that it can't be, or else."""

LONGEST = 96
"""Tokens of an answer."""


@dataclass(frozen=True)
class Turn:
    """What is said, and what should come of it."""

    question: str
    wanted: Calls | Kind
    results: tuple[tuple[bool, object], ...] = ()
    """What the device answers to the wanted calls; where there are none, "ok"."""
    answer: str = ""
    """The right words, where nothing is called and they're known."""


@dataclass(frozen=True)
class Case:
    """A conversation with a device."""

    tools: tuple[Tool, ...]
    turns: tuple[Turn, ...]


@dataclass
class Score:
    """Requests by what was wanted, and how many were met."""

    calls: int = 0
    exact: int = 0
    """Of `calls`: made as wanted, each argument equal, in the wanted order, and none besides."""
    held: int = 0
    """Requests that should be answered without a call, since something is missing or impossible."""
    kept: int = 0
    """Of `held`: answered without a call."""
    talks: int = 0
    quiet: int = 0
    """Of `talks`: answered without a call."""
    answers: int = 0
    worded: int = 0
    """Of `answers`, those whose right words are known: answered in these."""
    failures: list[dict[str, object]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list, compare=False)
    """Seconds from each question to the first of what is answered, a call or text."""

    def add(self, turn: Turn, calls: Calls, text: str) -> None:
        if turn.answer:
            self.answers += 1
            self.worded += not calls and text.strip() == turn.answer
        if turn.wanted == "talks":
            self.talks += 1
            right = not calls
            self.quiet += right
        elif isinstance(turn.wanted, str):
            self.held += 1
            right = not calls
            self.kept += right
        else:
            self.calls += 1
            right = calls == turn.wanted
            self.exact += right
        if not right:
            given: dict[str, object] = {"asked": turn.question, "wanted": turn.wanted}
            self.failures.append({**given, "calls": calls, "said": text})

    def as_json(self, most: int | None = None) -> dict[str, object]:
        """With `most` failures, or all."""
        return {
            "calls": self.calls,
            "exact": _share(self.exact, self.calls),
            "should ask or decline": self.held,
            "no call": _share(self.kept, self.held),
            "small talk": self.talks,
            "talked": _share(self.quiet, self.talks),
            "right words": _share(self.worded, self.answers),
            "failures": self.failures[:most],
        }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def made_up(seed: int, count: int, held: Held, catalogued: float) -> Iterable[Case]:
    """Cases of one to three turns that the generator of the training makes, a share of them with
    devices of the catalogue."""
    rng = Random(f"{seed} {held} {catalogued}")
    for _ in range(count):
        made = lesson(rng, rng.choice((1, 1, 2, 3)), held, catalogued)
        yield Case(made.tools, tuple(map(_asked, made.turns)))


def without_tools(seed: int, count: int) -> Iterable[Case]:
    """The same, one turn each, of a model that has no tools."""
    rng = Random(seed)
    for _ in range(count):
        yield Case((), tuple(map(_asked, toolless(lesson(rng, 1).turns)))[-1:])


def _asked(turn: devices.Turn) -> Turn:
    results = tuple((call.ok, call.result) for call in turn.calls)
    if turn.calls:
        return Turn(turn.question, tuple((c.name, c.arguments) for c in turn.calls), results)
    return Turn(turn.question, kind(turn.answer), answer=turn.answer)


def kind(answer: str) -> Kind:
    """What one of the generator's answers does."""
    from edgellm.training.devices.scenes import REFUSAL

    if answer.startswith(("Which ", "How many ")):
        return "asks"
    return "declines" if answer.startswith((REFUSAL, "It must be ")) else "talks"


def written(path: Path) -> list[Case]:
    """The cases of a file: devices with their tools, as they declare them, and talks, each turn a
    sentence and what should come of it. Talks of which the catalogue says a sentence to the letter,
    such as "open the gate", are left out: nothing is asked that was taught."""
    cases = []
    known = catalogue.sentences()
    for device in json.loads(path.read_text(encoding="utf-8")):
        tools = tuple(Tool.check(declared) for declared in device["tools"])
        for talk in device["talks"]:
            turns = tuple(Turn(said, _wanted(wanted)) for said, wanted in talk)
            if not any(turn.question.lower() in known for turn in turns):
                cases.append(Case(tools, turns))
    return cases


def _wanted(found: object) -> Calls | Kind:
    if isinstance(found, list):
        return tuple((name, arguments) for name, arguments in found)
    for known in get_args(Kind):
        if found == known:
            return cast(Kind, known)
    raise ValueError(f"{found!r} is neither a list of calls nor one of {get_args(Kind)}")


def hold(model: Model, sets: Mapping[str, Iterable[Case]]) -> dict[str, Score]:
    """Ask a model all of it, and close it; a score for each set of cases."""
    return asyncio.run(_hold(model, sets))


async def _hold(model: Model, sets: Mapping[str, Iterable[Case]]) -> dict[str, Score]:
    form = chat.for_model(model.file)
    scores = {name: Score() for name in sets}
    async with Scheduler(model.executor, model.tokenizer) as scheduler:
        service = Conversations(
            scheduler,
            model.tokenizer,
            form.render,
            sampling=Sampling(temperature=0.0),
            stop=form.stop,
            control=CONTROL,
            template=form.template,
        )
        for name, cases in sets.items():
            for number, case in enumerate(cases):
                session = f"{name} {number}"
                service.declare(session, case.tools)
                for turn in case.turns:
                    calls, text, wait = await _ask(service, session, turn)
                    scores[name].add(turn, calls, text)
                    scores[name].waits.append(wait)
                service.close(session)
    return scores


async def _ask(service: Conversations, session: str, turn: Turn) -> tuple[Calls, str, float]:
    """The calls that a question leads to, what is said, and the seconds before any of it."""
    calls: list[tuple[str, Mapping[str, object]]] = []
    text = ""
    results = itertools.chain(turn.results, itertools.repeat((True, "ok")))
    asked = time.monotonic()
    wait = 0.0
    try:
        answer = service.ask(session, turn.question, max_tokens=LONGEST)
        async for event in answer:
            wait = wait or time.monotonic() - asked
            if isinstance(event, Call):
                calls.append((event.name, event.arguments))
                answer.result(event.number, *next(results))
            elif isinstance(event, Text):
                text += event.text
    except EdgeError as error:  # such as a call that doesn't end
        text += f" [{error}]"
    return tuple(calls), text, wait


def table(scores: Mapping[str, Score]) -> list[str]:
    """A line for each score."""
    lines = []
    for name, score in scores.items():
        share = score.exact / max(score.calls, 1)
        line = f"{name}: {score.exact} of {score.calls} calls exact ({share:.1%})"
        line += f", {score.kept} of {score.held} asked back or declined"
        line += f", {score.quiet} of {score.talks} talked"
        line += f", {score.worded} of {score.answers} in the right words"
        if score.waits:
            line += f", first after {1000 * statistics.median(score.waits):.1f} ms (median)"
        lines.append(line)
    return lines
