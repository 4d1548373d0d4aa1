"""Devices in other words: what is told and what is said change alike, and all calls stay valid."""

from __future__ import annotations

from random import Random

import pytest

from edgellm.training.devices import catalogue, lesson, variation
from edgellm.training.devices.arguments import Choice
from edgellm.training.devices.catalogue import kind
from edgellm.training.devices.device import UNSEEN_MACHINES, Device
from edgellm.training.devices.rows import line

SILO = {
    "name": "silo",
    "declines": ["paint the tank"],
    "tool": [
        {
            "names": ["fill_tank"],
            "does": ["Fills the tank with grain"],
            "arguments": [
                {"name": "grain", "values": ["oats", "rye"], "said": {"oats": ["the oat"]}},
            ],
            "asks": ["fill the tanks with {grain}", "load {grain}", ["as usual", {"grain": "rye"}]],
            "lacking": [["grain", "fill the tank"]],
        },
        {"names": ["open_hatch"], "does": ["Opens the hatch"], "asks": ["open it up"]},
        {
            "names": ["empty"],
            "does": ["Empties one grain"],
            "arguments": [{"name": "grain", "values": ["oats", "rye"]}],
            "asks": ["let the {grain} out"],
        },
    ],
}  # fmt: skip


@pytest.fixture
def silo() -> Device:
    found = kind(SILO)
    abilities = [entry.ability(Random(1)) for entry in found.entries]
    return Device(tuple(abilities), found.declines)


@pytest.mark.parametrize("catalogued", [0.0, 1.0])
def test_every_call_is_valid_by_its_tool(catalogued: float) -> None:
    rng = Random(3)
    for _ in range(300):
        made = lesson(rng, 3, catalogued=catalogued, varied=1.0)
        tools = {tool.name: tool for tool in made.tools}
        assert len(tools) == len(made.tools)
        for call in (call for turn in made.turns for call in turn.calls):
            assert tools[call.name].schema.mismatch(call.arguments) is None


def test_a_noun_changes_in_the_tool_and_in_what_is_said(silo: Device) -> None:
    changed = 0
    for seed in range(40):
        found = variation.varied(silo, Random(seed))
        fill, hatch, _ = found.abilities
        assert hatch.tool.name == "open_hatch"  # which nobody says
        noun = fill.tool.name.removeprefix("fill_")
        changed += noun != "tank"
        assert noun in fill.tool.description
        assert found.declines == (f"paint the {noun}",)
        said = [way for use in fill.uses if not use.fixed for way in (*use.asks, *use.lacking)]
        assert all(noun in way or noun == "tank" for way in said), said
    assert 20 < changed < 40


def test_options_change_alike_in_all_tools_and_are_said_as_they_are_written(silo: Device) -> None:
    changed = 0
    for seed in range(40):
        fill, _, empty = variation.varied(silo, Random(seed)).abilities
        (one,), (other,) = fill.free, empty.free
        assert isinstance(one, Choice)
        assert isinstance(other, Choice)
        assert one.values == other.values
        assert one.values == tuple(fill.tool.parameters["properties"]["grain"]["enum"])
        if one.values != ("oats", "rye"):
            changed += 1
            assert not one.said
            assert not any(use.fixed for use in fill.uses)  # which would be what no longer is
            assert "oats" not in line(fill.tool)
    assert 20 < changed < 40


def test_nothing_held_out_occurs() -> None:
    machines = {word for noun in UNSEEN_MACHINES for word in noun.split()}
    assert not {*variation.nouns()} & machines - {"unit", "rain", "barrel", "press", "line", "zip"}
    seen, unseen = (
        {
            word
            for one in catalogue.kinds(held_out)
            for entry in one.entries
            for use in entry.uses
            for text in (*entry.does, *use.asks, *use.unseen, *use.lacking, *use.lacking_second)
            for word in text.lower().split()
        }
        for held_out in (False, True)
    )
    only_unseen = {word for word in unseen - seen if word.isalpha()}
    shared = only_unseen & {*variation.options()}
    assert len(only_unseen) > 100
    assert len(shared) < 0.2 * len(only_unseen), sorted(shared)


def test_without_variation_lessons_are_as_they_were() -> None:
    first, second = lesson(Random(5), 4), lesson(Random(5), 4, varied=0.0)
    assert (first.tools, first.turns) == (second.tools, second.turns)
