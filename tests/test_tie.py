"""What the rows of the head learn in common: against its formula, and what it is for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgellm.training.network import Part

Array = NDArray[np.float32]
pytestmark = pytest.mark.usefixtures("cpu")

ROWS, SIZE, KEPT = 12, 8, 3


def parts(seed: int, rows: int = ROWS, size: int = SIZE) -> tuple[dict[str, Array], Part]:
    from tinygrad import Tensor

    from edgellm.training.network import Part

    rng = np.random.default_rng(seed)
    learnt = {
        name: rng.standard_normal((rows, size)).astype(np.float32)
        for name in ("token_embd.weight", "output.weight")
    }
    free = np.ones((rows, size), np.float32)
    free[:, :KEPT] = 0
    return learnt, Part(
        {}, {},
        {name: Tensor(values).realize() for name, values in learnt.items()},
        {name: Tensor(np.zeros_like(values)).realize() for name, values in learnt.items()},
        {"token_embd.weight": Tensor(free).realize()},
    )  # fmt: skip


def test_it_follows_its_formula() -> None:
    from edgellm.training.memory import read, write
    from edgellm.training.optimiser import Rule
    from edgellm.training.tie import Tie

    learnt, top = parts(1)
    tie = Tie(top, Rule(beta1=0.8, beta2=0.95))
    table = learnt["token_embd.weight"][:, KEPT:].astype(float)
    head = learnt["output.weight"].astype(float)
    mean, square = np.zeros((2, SIZE - KEPT, SIZE - KEPT))
    rng = np.random.default_rng(2)
    for step in range(1, 5):
        slope = rng.standard_normal((ROWS, SIZE)).astype(np.float32)
        write(top.gradients["output.weight"], slope)
        tie.step(0.05)
        g = table.T @ slope[:, KEPT:]
        mean = 0.8 * mean + 0.2 * g
        square = 0.95 * square + 0.05 * g * g
        move = mean / (1 - 0.8**step) / (np.sqrt(square / (1 - 0.95**step)) + 1e-8)
        head[:, KEPT:] -= 0.05 * table @ move
        np.testing.assert_allclose(read(top.learnt["output.weight"]), head, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(
        read(top.learnt["token_embd.weight"]), learnt["token_embd.weight"]
    )


def test_what_repeats_some_tokens_repeats_those_that_never_were() -> None:
    """The stream is the embedding of what was read; a quarter of the tokens is never wanted."""
    from edgellm.training.memory import read, write
    from edgellm.training.optimiser import Rule
    from edgellm.training.tie import Tie

    rows, wanted = 80, 60
    learnt, top = parts(3, rows, 24)
    write(top.learnt["output.weight"], np.zeros((rows, 24), np.float32))
    tie = Tie(top, Rule())
    stream = learnt["token_embd.weight"].copy()
    stream[:, :KEPT] = 0
    for _ in range(60):
        scores = stream[:wanted] @ read(top.learnt["output.weight"]).T
        likely = np.exp(scores - scores.max(axis=1, keepdims=True))
        likely /= likely.sum(axis=1, keepdims=True)
        likely[np.arange(wanted), np.arange(wanted)] -= 1
        write(top.gradients["output.weight"], (likely.T @ stream[:wanted]).astype(np.float32))
        tie.step(0.02)
    scores = stream @ read(top.learnt["output.weight"]).T
    assert (scores.argmax(axis=1) == np.arange(rows))[:wanted].mean() > 0.9
    spread = (np.diag(scores) - scores.mean(axis=1)) / scores.std(axis=1)
    assert (spread[wanted:] > 1).mean() > 0.6


def test_it_is_gone_on_with() -> None:
    from edgellm.training.memory import read, write
    from edgellm.training.optimiser import Rule
    from edgellm.training.tie import Tie

    heads = []
    for interrupted in (False, True):
        _, top = parts(4)
        rng = np.random.default_rng(5)
        tie = Tie(top, Rule())
        for step in range(6):
            write(top.gradients["output.weight"], rng.standard_normal((ROWS, SIZE), np.float32))
            tie.step(0.01)
            if interrupted and step == 2:
                arrays = tie.arrays()
                tie = Tie(top, Rule())
                tie.restore(arrays)
        heads.append(read(top.learnt["output.weight"]))
    np.testing.assert_array_equal(heads[0], heads[1])
