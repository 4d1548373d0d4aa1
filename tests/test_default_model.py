"""The model inside the package: small, free, and sensible about commands it wasn't trained on."""

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
from edgellm.training import default_model, device_course, prompt_form, talk_course
from edgellm.training.evaluation import evaluate, talks
from edgellm.training.schedule import Schedule

MOST_BYTES = 2_000_000
LOSSES = Path(__file__).parent / "data" / "training" / "default_model.json"
"""The mean losses of each ten of the first fifty steps of the second course."""


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with edgellm.load() as loaded:
        yield loaded


def answer(model: Model, *questions: str) -> str:
    """The answer to the last of several questions."""
    messages: list[dict[str, str]] = []
    for question in questions:
        messages.append({"role": "user", "content": question})
        prompt = edgellm.render_chat(messages, template=model.file.template)
        said = "".join(piece.text for piece in model.generate(prompt, max_tokens=60))
        messages.append({"role": "assistant", "content": said})
    return messages[-1]["content"]


def test_the_file_is_small_and_free() -> None:
    opened = checkpoint.open(runtime.default_model())
    assert runtime.default_model().stat().st_size <= MOST_BYTES
    assert opened.config.architecture == "llama"
    assert opened.provenance.licence == "MIT"
    assert opened.provenance.name


def test_its_vocabulary_is_the_recipe_s() -> None:
    data = checkpoint.open(runtime.default_model()).tokenizer
    assert data is not None
    made = talk_course.vocabulary(default_model.SEED)
    assert (tuple(data.tokens), tuple(data.merges)) == (made.tokens, made.merges)


def test_its_template_is_the_recipe_s() -> None:
    assert checkpoint.words(runtime.default_model()).template == prompt_form.TALKS


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        ("turn on the lamp", ["the lamp is on"]),
        ("Switch off the kitchen light, please!", ["kitchen light is off"]),
        ("water the tomatoes for 10 minutes", ["watering the tomatoes for 10 minutes"]),
        ("set the thermostat to 21 degrees", ["thermostat", "21 degrees"]),
        ("open the garage door", ["garage door is open"]),
        ("start the drill press", ["drill press is running"]),
        ("close the blinds in the bedroom", ["blinds in the bedroom are closed"]),
        ("can you lock the front door", ["front door is locked"]),
        ("TURN OFF THE LAMP", ["the lamp is off"]),
        ("tunr on the lamp", ["the lamp is on"]),
        pytest.param(
            "turn of the radio",
            ["the radio is o"],
            marks=pytest.mark.xfail(reason="training makes no slips in words of up to 3 letters"),
        ),
        ("is the pump running?", ["can't tell", "pump"]),
        ("turn on", ["What"]),
        ("who are you", ["edgellm"]),
        ("what can you do?", ["commands"]),
        ("hello", ["Hello"]),
        ("tell me a joke", ["can't help"]),
    ],
)
def test_it_answers_sensibly(model: Model, question: str, parts: list[str]) -> None:
    said = answer(model, question)
    assert all(part in said for part in parts), said


def test_it_knows_what_was_spoken_of(model: Model) -> None:
    assert "lamp is off" in answer(model, "turn on the lamp", "turn it off again")
    assert "pump is running" in answer(model, "is the pump running?", "yes")


def test_held_out_dialogues(model: Model) -> None:
    """Nouns, places and phrasings that training never saw."""
    score = evaluate(model, talks(21, 60, held_out=True))
    assert score.share > 0.7, score.failures


def test_batches_follow_from_the_seed() -> None:
    reader = tokenizer.make(talk_course.vocabulary(2, talks=300))
    for batch in (talk_course.batch, device_course.batch):
        first, second, other = (batch(seed, reader, 1) for seed in (3, 3, 4))
        assert np.array_equal(first.tokens, second.tokens)
        assert np.array_equal(first.targets, second.targets)
        assert not np.array_equal(first.tokens, other.tokens)


def test_fifty_steps_go_as_recorded() -> None:
    """The beginning of the second course, with a vocabulary that is made sooner."""
    data = device_course.vocabulary(default_model.SEED, lessons=1000)
    reader = tokenizer.make(data)
    config, weights = device_course.start(reader, len(data.tokens), default_model.SEED)
    made = default_model.course(
        config,
        weights,
        replace(device_course.SCHEDULE, steps=50),
        lambda step: device_course.batch(default_model.SEED, reader, step),
    )
    assert made.run(default_model.Listener(made, 1000, lambda: None), lambda: None, every=1e9)
    losses = [step.loss for step in made.history.steps]
    means = [float(np.mean(losses[begin : begin + 10])) for begin in range(0, 50, 10)]
    assert means == pytest.approx(json.loads(LOSSES.read_text()), rel=0.02)
    assert means == sorted(means, reverse=True)


def test_the_second_course_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = functools.partial(device_course.vocabulary, lessons=100)
    monkeypatch.setattr(device_course, "vocabulary", few)
    monkeypatch.setattr(device_course, "SHAPE", (2, 128))
    made, state = tmp_path / "caller.gguf", tmp_path / "state.zip"
    for steps in (2, 3):
        monkeypatch.setattr(device_course, "SCHEDULE", Schedule(steps, 1e-3))
        default_model.devices(made, 1, 100, state)
    file = checkpoint.open(made)
    assert file.template == prompt_form.TEMPLATE
    assert file.tokenizer is not None
    assert len(file.config.layers) == device_course.LAYERS
    assert not list(tmp_path.glob("*.partial.gguf"))
