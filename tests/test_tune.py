"""Training: gradients are those of the plain definition, and the loss falls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgellm.training.initial_weights import llama

if TYPE_CHECKING:
    from edgellm.tune import Batch, Trainer

CONFIG, WEIGHTS = llama(
    vocab=64, dim=32, layers=1, heads=2, kv_heads=1, hidden=32, context=16, seed=1
)


pytestmark = pytest.mark.usefixtures("cpu")


def batch(seed: int) -> Batch:
    """Rows that repeat one token: after the first, the next is known."""
    rng = np.random.default_rng(seed)
    tokens = np.repeat(rng.integers(1, 64, (4, 1)), 16, axis=1).astype(np.int32)
    targets = tokens.copy()
    targets[:, 0] = -1
    return tokens, targets


def trainer(tiled: bool = True) -> Trainer:
    from edgellm.tune import Trainer

    return Trainer(CONFIG, WEIGHTS, tiled)


def test_tiled_gradients_are_those_of_the_plain_transformer() -> None:
    from tinygrad import Tensor

    tokens, targets = (Tensor(x).realize() for x in batch(0))
    names = ("token_embd.weight", "blk.0.attn_k.weight", "blk.0.ffn_gate.weight")
    plain, tiled = (
        dict(zip(WEIGHTS, trainer(kind).gradients(tokens, targets)[1], strict=True))
        for kind in (False, True)
    )
    Tensor.realize(*(gradients[name] for gradients in (plain, tiled) for name in names))
    for name in names:
        np.testing.assert_allclose(plain[name].numpy(), tiled[name].numpy(), atol=1e-5)


def test_gradients_are_slopes() -> None:
    """Against a difference quotient along the gradient itself."""
    from tinygrad import Tensor

    tokens, targets = (Tensor(x).realize() for x in batch(1))
    one = trainer()
    _, gradients = one.gradients(tokens, targets)
    Tensor.realize(*gradients)
    slopes = [g.numpy() for g in gradients]
    norm = float(np.sqrt(sum((s**2).sum() for s in slopes)))
    losses = []
    for sign in (1, -1):
        for (name, weight), slope in zip(one.weights.items(), slopes, strict=True):
            moved = WEIGHTS[name] + sign * 1e-2 * slope / norm
            weight.assign(Tensor(moved.astype(np.float32))).realize()
        losses.append(one.loss(tokens, targets).item())
    assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(norm, rel=0.02)


def test_the_loss_falls_and_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    one = trainer()
    losses = [one.step(batch(0), 1e-2) for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]

    one.save(tmp_path / "state.npz")
    other = trainer()
    other.restore(tmp_path / "state.npz")
    assert other.taken == 12
    assert one.step(batch(1), 1e-2) == other.step(batch(1), 1e-2)
    for name, values in one.arrays().items():
        np.testing.assert_array_equal(values, other.arrays()[name])


def test_ignored_positions_teach_nothing() -> None:
    from tinygrad import Tensor

    one = trainer()
    tokens, targets = batch(3)
    partly = targets.copy()
    partly[:, 8:] = -1
    scores = one.transformer.logits(one.transformer.hidden(Tensor(tokens))).numpy()
    shares = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    wanted = np.take_along_axis(shares, tokens[..., None], -1)[:, 1:8]
    assert one.loss(Tensor(tokens), Tensor(partly)).item() == pytest.approx(
        -wanted.mean(), rel=1e-4
    )


def test_the_rate_rises_stays_and_falls() -> None:
    from edgellm.tune import rate

    rates = [rate(step, 1000, 1.0) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 200)
    assert set(rates[200:600]) == {1.0}
    assert sorted(rates[600:], reverse=True) == rates[600:]
    assert 0 < rates[-1] < 0.05
