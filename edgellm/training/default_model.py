"""Makes the model inside the package: `python -m edgellm.training.default_model MODEL.gguf`.

Everything follows from the seed: the vocabulary, the first weights, the dialogues and their order.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from edgellm import runtime, tokenizer
from edgellm.training import bpe_trainer, initial_weights
from edgellm.training.batch import plain
from edgellm.training.dialogues import conversation
from edgellm.training.dialogues.rows import CONTROL, TEMPLATE, rows
from edgellm.training.model_writer import write_llama
from edgellm.training.operations import TrainingBackend

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgellm.config import Config
    from edgellm.tokenizer import Tokenizer, TokenizerData
    from edgellm.training.batch import Batch
    from edgellm.training.course import Course
    from edgellm.training.initial_weights import Weights
    from edgellm.training.record import History

SEED = 2
VOCABULARY = 1024
DIM, LAYERS, HEADS, KV_HEADS, HIDDEN = 128, 4, 4, 2, 384
CONTEXT = 512

STEPS, PEAK = 5400, 3e-3
SHAPES = (*[(24, 96)] * 9, *[(8, 256)] * 2, (4, 512))
"""(rows, tokens a row) of the batches, in turn: mostly short, so that first turns count."""

ABOUT: dict[str, object] = {
    "name": "edgellm default",
    "description": "Answers commands to household, garden and workshop devices; trained by "
    "edgellm.training.default_model on dialogues that edgellm.training.dialogues makes up",
    "author": "the edgellm project",
    "license": "MIT",
    "sampling.temp": 0.0,  # a device's name and number have one right spelling
}


def vocabulary(seed: int = SEED, talks: int = 15000) -> TokenizerData:
    """A vocabulary for the dialogues that `seed` gives."""
    rng = Random(seed)
    texts: list[str] = []
    for _ in range(talks):
        for question, answer in conversation(rng, 1):
            texts += [f"user\n{question}", f"assistant\n{answer}"]
    return bpe_trainer.train(texts, VOCABULARY, CONTROL, least=3)


def batches(seed: int, vocabulary: Tokenizer, step: int) -> Batch:
    """The batch of a step, the same whenever it is asked for."""
    count, length = SHAPES[step % len(SHAPES)]
    drawn = itertools.islice(rows(seed + 1000 * (step + 1), vocabulary, length), count)
    tokens, targets, _ = zip(*drawn, strict=True)
    return plain(np.stack(tokens), np.stack(targets))


def first_course(
    config: Config, weights: Weights, vocabulary: Tokenizer, seed: int, steps: int
) -> Course:
    """The training at its beginning."""
    backend = runtime.backend("cpu")
    assert isinstance(backend, TrainingBackend)
    operations = backend.training()
    from edgellm.training.course import Course, Plan
    from edgellm.training.network import Network
    from edgellm.training.optimiser import Rule
    from edgellm.training.schedule import Schedule

    network = Network(config, {}, operations, weights)
    schedule = Schedule(steps, PEAK, warm_up=200, level=0.6, floor=0.02)
    plan = Plan(schedule, Rule(beta2=0.98, decay=0.02))
    return Course(network, plan, lambda step: [batches(seed, vocabulary, step)])


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


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edgellm.training.default_model", description=__doc__
    )
    parser.add_argument("file", type=Path, help="the GGUF file to write")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--every", type=int, default=100, help="steps between reports")
    parser.add_argument("--state", type=Path, help="file to save the training in, and go on from")
    options = parser.parse_args(arguments)

    data = vocabulary(options.seed)
    reader = tokenizer.make(data)
    # What was there before is replaced only by what is complete.
    draft = options.file.with_name(f"{options.file.stem}.partial.gguf")
    write = functools.partial(write_llama, draft, tokenizer=data, template=TEMPLATE, about=ABOUT)
    config, weights = initial_weights.llama(
        VOCABULARY, DIM, LAYERS, HEADS, KV_HEADS, HIDDEN, CONTEXT, options.seed
    )
    course = first_course(config, weights, reader, options.seed, options.steps)
    from edgellm.training import state  # with tinygrad, which is set up by now

    if options.state and options.state.exists():
        state.restore(options.state, course, {"seed": options.seed, "steps": options.steps})
    listener = Listener(course, options.every, lambda: write(config, course.network.arrays()))

    def save() -> None:
        if options.state:
            state.save(options.state, course, {"seed": options.seed, "steps": options.steps})

    course.run(listener, save, every=300)
    write(config, course.network.arrays())
    draft.replace(options.file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
