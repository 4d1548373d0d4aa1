"""Makes the default model: `python -m edgellm.training.default_model talks|devices MODEL.gguf`.

Two courses, each of which writes a model: the first one's only talks, the second one's calls the
tools of devices. Everything follows from the seed.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm import runtime, tokenizer
from edgellm.training import device_course, prompt_form, talk_course
from edgellm.training.model_writer import write_llama
from edgellm.training.operations import TrainingBackend

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgellm.config import Config
    from edgellm.training.batch import Batch
    from edgellm.training.course import Course
    from edgellm.training.initial_weights import Weights
    from edgellm.training.record import History
    from edgellm.training.schedule import Schedule

SEED = 2

ABOUT: dict[str, object] = {
    "author": "the edgellm project",
    "license": "MIT",
    "sampling.temp": 0.0,  # a device's name and a number have one right spelling
}
TALKS: dict[str, object] = {
    "name": "edgellm default",
    "description": "Answers commands to household, garden and workshop devices; trained by "
    "edgellm.training.default_model on dialogues that edgellm.training.dialogues makes up",
}
DEVICES: dict[str, object] = {
    "name": "edgellm devices",
    "description": "Calls the tools of devices; trained by edgellm.training.default_model on what "
    "edgellm.training.devices makes up",
}


class Listener:
    """Tells how training goes, and keeps a model of it on the disk, every so many steps."""

    def __init__(self, course: Course, every: int, write: Callable[[], None]) -> None:
        self._course, self._every, self._write = course, every, write
        self._began = time.monotonic()

    def stopping(self) -> bool:
        return False

    def stepped(self, history: History) -> None:
        taken, steps = history.steps[-1].step, self._course.plan.schedule.steps
        if taken % self._every and taken != steps:
            return
        last = history.steps[-self._every :]
        loss = sum(step.loss for step in last) / len(last)
        speed = sum(step.tokens for step in last) / sum(step.seconds for step in last)
        minutes = (time.monotonic() - self._began) / 60
        line = f"step {taken}/{steps}  loss {loss:.4f}  {speed:.0f} tokens/s  {minutes:.1f} min"
        print(line, file=sys.stderr, flush=True)
        self._write()

    def looked(self, history: History) -> None:
        pass


def course(
    config: Config, weights: Weights, schedule: Schedule, batch: Callable[[int], Batch]
) -> Course:
    """A training at its beginning."""
    backend = runtime.backend("cpu")
    assert isinstance(backend, TrainingBackend)
    from edgellm.training.course import Course, Plan
    from edgellm.training.network import Network
    from edgellm.training.optimiser import Rule

    network = Network(config, {}, backend.training(), weights)
    plan = Plan(schedule, Rule(beta2=0.98, decay=0.02))
    return Course(network, plan, lambda step: [batch(step)])


def talks(path: Path, seed: int, every: int, kept: Path | None) -> None:
    """The first course: writes a model that only talks."""
    data = talk_course.vocabulary(seed)
    config, weights = talk_course.start(seed)
    reader = tokenizer.make(data)
    made = course(
        config, weights, talk_course.SCHEDULE, lambda step: talk_course.batch(seed, reader, step)
    )
    write = functools.partial(
        write_llama, config=config, tokenizer=data, template=prompt_form.TALKS, about=TALKS | ABOUT
    )
    train(path, made, every, kept, {"course": "talks", "seed": seed}, write)


def devices(path: Path, seed: int, every: int, kept: Path | None) -> None:
    """The second course: writes a model that works devices, from nothing."""
    data = device_course.vocabulary(seed)
    reader = tokenizer.make(data)
    config, weights = device_course.start(reader, len(data.tokens), seed)
    made = course(
        config,
        weights,
        device_course.SCHEDULE,
        lambda step: device_course.batch(seed, reader, step),
    )
    write = functools.partial(
        write_llama,
        config=config,
        tokenizer=data,
        template=prompt_form.TEMPLATE,
        about=DEVICES | ABOUT,
    )
    train(path, made, every, kept, {"course": "devices", "seed": seed}, write)


def train(
    path: Path,
    made: Course,
    every: int,
    kept: Path | None,
    settings: dict[str, object],
    write: Callable[..., None],
) -> None:
    """Train to the end, and write the model; what was there before is replaced only by what is
    complete. `kept` is the file of the training's state, gone on from where there is one."""
    from edgellm.training import state

    draft = path.with_name(f"{path.stem}.partial.gguf")

    def put() -> None:
        write(draft, weights=made.network.arrays())

    def save() -> None:
        if kept:
            state.save(kept, made, settings)

    if kept and kept.exists():
        state.restore(kept, made, settings)
    made.run(Listener(made, every, put), save, every=300)
    put()
    draft.replace(path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edgellm.training.default_model", description=__doc__
    )
    parser.add_argument("course", choices=("talks", "devices"))
    parser.add_argument("file", type=Path, help="the GGUF file to write")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--every", type=int, default=100, help="steps between reports")
    parser.add_argument("--state", type=Path, help="file to save the training in, and go on from")
    given = parser.parse_args(arguments)
    write = talks if given.course == "talks" else devices
    write(given.file, given.seed, given.every, given.state)
    return 0


if __name__ == "__main__":
    sys.exit(main())
