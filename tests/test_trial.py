"""Trials: what is counted, and that a model is asked as a device's user asks it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import edgellm
from edgellm.tools.tool import Tool
from edgellm.training import trial
from edgellm.training.devices import Held
from edgellm.training.trial import Case, Score, Turn

ROOT = Path(__file__).parent.parent
REQUESTS = ROOT / "tests" / "data" / "requests" / "spoken.json"
LEVEL = {"type": "object", "properties": {"level": {"type": "integer", "minimum": 0, "maximum": 9}}}
FAN = Tool("fan", "Sets the fan", {**LEVEL, "required": ["level"]})


def test_only_the_very_calls_count() -> None:
    score = Score()
    wanted = (("fan", {"level": 3}),)
    turn = Turn("fan to 3", wanted)
    for calls in (wanted, (), (("fan", {"level": 4}),), (*wanted, *wanted), (("pump", {}),)):
        score.add(turn, calls, "OK.")
    assert (score.calls, score.exact) == (5, 1)
    for kind, calls in (("asks", ()), ("declines", wanted), ("declines", ()), ("talks", ())):
        score.add(Turn("hm", kind), calls, "Which level?")  # type: ignore[arg-type]
    assert (score.held, score.kept, score.talks, score.quiet) == (3, 2, 1, 1)
    assert len(score.failures) == 5
    for said in ("Which level?", " Which level?", "Which?"):
        score.add(Turn("fan", "asks", answer="Which level?"), (), said)
    assert (score.answers, score.worded) == (3, 2)
    assert score.as_json(2)["exact"] == 0.2
    assert len(score.as_json(2)["failures"]) == 2  # type: ignore[arg-type]
    assert "1 of 5 calls exact (20.0%)" in trial.table({"x": score})[0]


def test_what_people_have_written_is_whole() -> None:
    cases = trial.written(REQUESTS)
    assert sum(len(case.turns) for case in cases) >= 300
    for case in cases:
        tools = {tool.name: tool for tool in case.tools}
        for turn in case.turns:
            if isinstance(turn.wanted, str):
                continue
            for name, arguments in turn.wanted:
                assert tools[name].schema.mismatch(arguments) is None, turn


def test_the_generator_has_not_seen_what_people_have_written() -> None:
    written = {turn.question.lower() for case in trial.written(REQUESTS) for turn in case.turns}
    names = {json.dumps([tool.line() for tool in case.tools]) for case in trial.written(REQUESTS)}
    made = [case for share in (0.0, 1.0) for case in trial.made_up(1, 300, Held(), share)]
    assert not names & {json.dumps([tool.line() for tool in case.tools]) for case in made}
    said = {turn.question.lower() for case in made for turn in case.turns}
    assert len(written & said) < 5  # "go home" can be said to anything


def test_made_up_cases_are_as_wanted() -> None:
    for case in trial.made_up(5, 60, Held(), 0.5):
        assert case.tools
        for turn in case.turns:
            assert bool(turn.answer) == isinstance(turn.wanted, str)
            assert len(turn.results) == (0 if turn.answer else len(turn.wanted))
    for case in trial.without_tools(5, 60):
        assert not case.tools
        assert len(case.turns) == 1
        assert case.turns[0].answer


def test_a_file_that_wants_nonsense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "requests.json"
    talks = [[["fan", "sings"]]]
    path.write_text(json.dumps([{"device": "x", "tools": [FAN.declaration()], "talks": talks}]))
    with pytest.raises(ValueError, match="'sings' is neither"):
        trial.written(path)


def test_a_model_is_asked_all_of_it() -> None:
    turns = (Turn("hello", "talks"), Turn("fan to 3", (("fan", {"level": 3}),), ((True, "ok"),)))
    scores = trial.hold(edgellm.load(), {"a": [Case((FAN,), turns)], "b": [Case((), turns[:1])]})
    assert (scores["a"].talks, scores["a"].calls, scores["b"].quiet) == (1, 1, 1)
    again = trial.hold(edgellm.load(), {"a": [Case((FAN,), turns)]})
    assert again["a"] == scores["a"]
