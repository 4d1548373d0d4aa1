"""The evaluation asks what it is told to, and reports it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgellm.tools.tool import Tool
from edgellm.training import evaluation

FAN = Tool("fan_on", "Turns the fan on").declaration()
TALKS = {"calls": [[["let the fan whirl", [["fan_on", {}]]]]], "talks": [[["hi", "talks"]]]}


def test_only_what_is_written_may_be_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    arguments = ["--count", "0", "--report", str(report)]
    for name, talks in (
        ("calls", [[["let the fan whirl", [["fan_on", {}]]]]]),
        ("talks", [[["hi", "talks"]]]),
    ):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps([{"device": "fan", "tools": [FAN], "talks": talks}]))
        arguments += ["--requests", str(path)]
    assert evaluation.main(arguments) == 0
    found = json.loads(report.read_text())
    assert list(found) == ["calls", "talks"]
    assert (found["calls"]["calls"], found["talks"]["small talk"]) == (1, 1)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_what_is_made_up_is_of_all_kinds() -> None:
    sets = {name: list(cases) for name, cases in evaluation.sets(2).items()}
    assert {len(cases) for cases in sets.values()} == {2}
    assert len(sets) == 7
