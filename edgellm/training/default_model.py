"""Makes the default model: `python -m edgellm.training.default_model MODEL.gguf`.

Everything follows from the seed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm import runtime, tokenizer
from edgellm.training import device_course, prompt_form
from edgellm.training.model_writer import write_llama
from edgellm.training.operations import TrainingBackend

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgellm.config import Config
    from edgellm.tokenizer import Tokenizer
    from edgellm.training.course import Course
    from edgellm.training.prepared_weights import Prepared
    from edgellm.training.record import History

SEED = 2

ABOUT: dict[str, object] = {
    "name": "edgellm default",
    "description": "Calls the tools of devices; trained by edgellm.training.default_model on "
    "lessons that edgellm.training.devices makes up",
    "author": "the edgellm project",
    "license": "MIT",
    "sampling.temp": 0.0,  # a device's name and a number have one right spelling
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


def course(config: Config, prepared: Prepared, reader: Tokenizer, seed: int) -> Course:
    """The training at its beginning."""
    backend = runtime.backend("cpu")
    assert isinstance(backend, TrainingBackend)
    from edgellm.training.course import Course, Plan, Tied
    from edgellm.training.network import Network
    from edgellm.training.optimiser import Rule

    network = Network(
        config, {}, backend.training(), prepared.weights, kept=prepared.kept, roomy=True
    )
    plan = Plan(
        device_course.SCHEDULE,
        Rule(beta2=0.98, decay=0.02),
        tied=Tied(device_course.TIED_SHARE, device_course.TIED_AFTER),
    )
    return Course(network, plan, lambda step: [device_course.batch(seed, reader, step)])


def train(path: Path, seed: int, every: int, kept: Path | None) -> None:
    """Train to the end, and write the model; what was there before is replaced only by what is
    complete. `kept` is the file of the training's state, gone on from where there is one."""
    from edgellm.training import state

    data = device_course.vocabulary(seed)
    reader = tokenizer.make(data)
    config, prepared = device_course.start(reader, len(data.tokens), seed)
    made = course(config, prepared, reader, seed)
    draft, settings = path.with_name(f"{path.stem}.partial.gguf"), {"seed": seed}

    def write() -> None:
        write_llama(draft, config, made.network.arrays(), data, prompt_form.TEMPLATE, ABOUT)

    def save() -> None:
        if kept:
            state.save(kept, made, settings)

    if kept and kept.exists():
        state.restore(kept, made, settings)
    made.run(Listener(made, every, write), save, every=300)
    write()
    draft.replace(path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edgellm.training.default_model", description=__doc__
    )
    parser.add_argument("file", type=Path, help="the GGUF file to write")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--every", type=int, default=100, help="steps between reports")
    parser.add_argument("--state", type=Path, help="file to save the training in, and go on from")
    given = parser.parse_args(arguments)
    train(given.file, given.seed, given.every, given.state)
    return 0


if __name__ == "__main__":
    sys.exit(main())
