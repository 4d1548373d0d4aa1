"""Makes the model inside the package: `python -m edgellm.training.default_model MODEL.gguf`.

Everything follows from the seed: the vocabulary, the first weights, the dialogues and their order.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from edgellm import runtime, tokenizer
from edgellm.training import bpe_trainer, initial_weights
from edgellm.training.dialogues import conversation
from edgellm.training.dialogues.rows import CONTROL, TEMPLATE, rows
from edgellm.training.model_writer import write_llama

if TYPE_CHECKING:
    from edgellm.tokenizer import Tokenizer, TokenizerData
    from edgellm.tune import Batch

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
    return np.stack(tokens), np.stack(targets)


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
    write(config, weights)
    # Opening a first model lets the backend point tinygrad, which may not have been imported until
    # then, at this machine's compiler; what is lacking shows at once and not after the training.
    runtime.load(draft).close()
    from edgellm.tune import Trainer, train

    trainer = Trainer(config, weights)
    if options.state and options.state.exists():
        trainer.restore(options.state)

    def report(step: int, loss: float) -> None:
        write(config, trainer.arrays())
        if options.state:
            trainer.save(options.state)

    train(
        trainer,
        functools.partial(batches, options.seed, reader),
        options.steps,
        PEAK,
        options.every,
        report,
    )
    draft.replace(options.file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
