"""The model inside the package: small, free, and able to call what a device declares."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgellm
from edgellm import checkpoint, runtime, tokenizer
from edgellm.runtime import Model
from edgellm.tools.tool import Tool
from edgellm.training import default_model, device_course, prompt_form, trial
from edgellm.training.devices import Held
from edgellm.training.devices.scenes import REFUSAL
from edgellm.training.schedule import Schedule
from edgellm.training.trial import Case, Turn

MOST_BYTES = 5_000_000
EXACT = {0.0: 0.7, 1.0: 0.55}
"""The least share of exact calls where phrasings are held out, of devices that are composed and of
those of the catalogue; `make evaluate` measures all of it."""
LOSSES = Path(__file__).parent / "data" / "training" / "default_model.json"
"""The mean losses of each ten of the first fifty steps."""


def one(name: str, schema: dict[str, object]) -> dict[str, object]:
    """The schema of one argument."""
    return {"type": "object", "properties": {name: schema}, "required": [name]}


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with edgellm.load() as loaded:
        yield loaded


def answer(model: Model, question: str) -> str:
    """The answer of a model that has no tools."""
    messages = [{"role": "user", "content": question}]
    prompt = edgellm.render_chat(messages, template=model.file.template)
    return "".join(piece.text for piece in model.generate(prompt, max_tokens=60))


def test_the_file_is_small_and_free() -> None:
    opened = checkpoint.open(runtime.default_model())
    assert runtime.default_model().stat().st_size <= MOST_BYTES
    assert opened.config.architecture == "llama"
    assert opened.provenance.licence == "MIT"
    assert opened.provenance.name == default_model.ABOUT["name"]


def test_its_vocabulary_is_the_recipe_s() -> None:
    data = checkpoint.open(runtime.default_model()).tokenizer
    assert data is not None
    made = device_course.vocabulary(default_model.SEED)
    assert (tuple(data.tokens), tuple(data.merges)) == (made.tokens, made.merges)


def test_its_template_is_the_recipe_s() -> None:
    assert checkpoint.words(runtime.default_model()).template == prompt_form.TEMPLATE


@pytest.mark.parametrize(
    ("question", "part"),
    [
        ("who are you", "edgellm"),
        ("hello", "Hello"),
        ("THANK YOU", "welcome"),
        ("tell me a joke", "can't help"),
        ("turn on the lamp", REFUSAL),
    ],
)
def test_without_tools_it_talks_and_pretends_nothing(
    model: Model, question: str, part: str
) -> None:
    assert part in answer(model, question)


def test_it_calls_what_a_device_declares() -> None:
    percent = {"type": "integer", "minimum": 0, "maximum": 100, "unit": "%"}
    tools = (
        Tool("set_fan", "Sets the speed of the fan", one("percent", percent)),
        Tool("open_window", "Opens the window"),
        Tool("read_temperature", "Reads the temperature of the room"),
    )
    turns = (
        Turn("fan to 40 percent", (("set_fan", {"percent": 40}),)),
        Turn("please open the window", (("open_window", {}),)),
        Turn("what is the temperature", (("read_temperature", {}),), ((True, 21),)),
        Turn("hello", "talks"),
    )
    cases = [Case(tools, (turn,)) for turn in turns]
    (score,) = trial.hold(edgellm.load(), {"": cases}).values()
    assert not score.failures


def test_held_out_phrasings() -> None:
    sets = {str(share): trial.made_up(21, 40, Held(phrasings=True), share) for share in EXACT}
    scores = trial.hold(edgellm.load(), sets)
    for share, least in EXACT.items():
        score = scores[str(share)]
        assert score.exact >= least * score.calls, score.failures


def test_batches_follow_from_the_seed() -> None:
    reader = tokenizer.make(device_course.vocabulary(2, lessons=100))
    for step in (1, 5000):
        first, second, other = (device_course.batch(seed, reader, step) for seed in (3, 3, 4))
        assert np.array_equal(first.tokens, second.tokens)
        assert np.array_equal(first.targets, second.targets)
        assert not np.array_equal(first.tokens, other.tokens)


def test_fifty_steps_go_as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training's beginning, with a vocabulary and affinities that are made sooner."""
    seed = default_model.SEED
    monkeypatch.setattr(device_course, "SCHEDULE", replace(device_course.SCHEDULE, steps=50))
    data = device_course.vocabulary(seed, lessons=1000)
    reader = tokenizer.make(data)
    config, prepared = device_course.start(reader, len(data.tokens), seed, lessons=500, steps=200)
    made = default_model.course(config, prepared, reader, seed)
    assert made.run(default_model.Listener(made, 1000, lambda: None), lambda: None, every=1e9)
    losses = [step.loss for step in made.history.steps]
    means = [float(np.mean(losses[begin : begin + 10])) for begin in range(0, 50, 10)]
    assert means == pytest.approx(json.loads(LOSSES.read_text()), rel=0.02)
    assert means == sorted(means, reverse=True)


def test_a_training_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, few in (("vocabulary", {"lessons": 100}), ("start", {"lessons": 100, "steps": 20})):
        whole = getattr(device_course, name)
        monkeypatch.setattr(device_course, name, functools.partial(whole, **few))
    monkeypatch.setattr(device_course, "SHAPE", (2, 128))
    made, state = tmp_path / "made.gguf", tmp_path / "state.zip"
    for steps in (2, 3):
        monkeypatch.setattr(device_course, "SCHEDULE", Schedule(steps, 1e-3))
        default_model.main([str(made), "--seed", "1", "--state", str(state)])
    file = checkpoint.open(made)
    assert file.template == prompt_form.TEMPLATE
    assert file.tokenizer is not None
    assert len(file.config.layers) == device_course.LAYERS
    assert not list(tmp_path.glob("*.partial.gguf"))
