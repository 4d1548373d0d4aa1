"""The way through a network and back, against PyTorch's gradients and tinygrad's plain ones."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
import training_cases
from training_cases import FAMILIES, MODELS, OUT, RATE, SCALE, plain

from edgellm import checkpoint, runtime
from edgellm.adapter import Adapter
from edgellm.checkpoint import Checkpoint
from edgellm.training.batch import Batch
from edgellm.training.names import LOW, UP
from edgellm.training.operations import Operations, TrainingBackend

pytestmark = pytest.mark.usefixtures("cpu")

# Between them they have all that families differ in.
CHOSEN = ("gpt2", "falcon_rw", "gemma2", "lfm2")
if os.environ.get("EDGELLM_FAMILIES") == "all":
    CHOSEN = tuple(FAMILIES)


@pytest.fixture(scope="module")
def operations() -> Iterator[Operations]:
    backend = runtime.backend("cpu")
    assert isinstance(backend, TrainingBackend)
    operations = backend.training(2)
    yield operations
    operations.close()


def values(adapter: Adapter) -> dict[str, np.ndarray]:
    found = {}
    for name, matrix in adapter.matrices.items():
        found[f"{name.removesuffix('weight')}{LOW}"] = matrix.a
        found[f"{name.removesuffix('weight')}{UP}"] = matrix.b
    return found


def network(base: Checkpoint, operations: Operations, learnt=None, **options):
    from edgellm.training.network import Network

    learnt = values(training_cases.adapter(base)) if learnt is None else learnt
    return Network(base.config, base.tensors, operations, learnt, scale=SCALE, **options)


def gradients(net) -> dict[str, np.ndarray]:
    from edgellm.training.memory import read

    found = {name: read(tensor) for name, tensor in net.top.gradients.items()}
    for index, part in enumerate(net.layers):
        for name, tensor in part.gradients.items():
            found[f"blk.{index}.{name}"] = read(tensor)
    return found


@pytest.mark.parametrize("family", CHOSEN)
def test_gradients_and_ten_steps_are_those_of_pytorch(family: str, operations: Operations) -> None:
    from edgellm.training.optimiser import AdamW, Rule

    base = checkpoint.open(MODELS / family)
    wanted = np.load(OUT / f"{family}.npz")
    batch = plain(wanted["tokens"], wanted["targets"])
    net = network(base, operations)
    optimiser = AdamW([*net.layers, net.top], Rule())
    losses = []
    for step in range(10):
        losses.append(net.learn(batch, 1 / batch.wanted) / batch.wanted)
        if step == 0:
            found = gradients(net)
        optimiser.step(RATE)
    for name in wanted.files:
        if name.endswith((" a", " b")):
            mine = found[name.replace("weight a", LOW).replace("weight b", UP)]
            error = np.linalg.norm(mine - wanted[name]) / np.linalg.norm(wanted[name])
            assert error < 1e-4, f"{name}: {error}"
    np.testing.assert_allclose(losses, wanted["losses"], atol=1e-3)


def test_every_weights_gradient_is_a_slope(operations: Operations) -> None:
    """Full training, biases, norms and learned positions included: each tensor's gradient against
    the difference quotient along it."""
    from edgellm.training.memory import write

    base = checkpoint.open(MODELS / "gpt2")
    batch = plain(*training_cases.rows(base))
    weights = {name: tensor.float32().copy() for name, tensor in base.tensors.items()}
    net = network(base, operations, weights)
    net.learn(batch, 1 / batch.wanted)
    for name, slope in gradients(net).items():
        norm = float(np.linalg.norm(slope))
        assert norm > 0, name
        step = 0.01 / max(norm, 0.1)
        losses = []
        for sign in (1, -1):
            moved = weights[name] + np.float32(sign * step / norm) * slope
            write(net.learnt[name], moved)
            losses.append(net.loss(batch) / batch.wanted)
        write(net.learnt[name], weights[name])
        assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(norm, rel=0.02), name


def test_what_is_kept_stays_while_a_network_learns(operations: Operations) -> None:
    """Some of one layer's matrix and norm, and of the last norm; their like in the other layer is
    free."""
    from edgellm.training.optimiser import AdamW, Rule

    base = checkpoint.open(MODELS / "llama")
    batch = plain(*training_cases.rows(base))
    names = [f"blk.{layer}.attn_{kind}.weight" for layer in (0, 1) for kind in ("q", "norm")]
    weights = {name: base.tensors[name].float32().copy() for name in (*names, "output_norm.weight")}
    rng = np.random.default_rng(0)
    kept = {name: rng.random(weights[name].shape) < 0.5 for name in [*weights][2:]}
    net = network(base, operations, weights, kept=kept)
    optimiser = AdamW([*net.layers, net.top], Rule(decay=0.1))
    for _ in range(2):
        net.learn(batch, 1 / batch.wanted)
        optimiser.step(RATE)
    for name, found in net.arrays().items():
        stays = kept.get(name, np.zeros(found.shape, bool))
        assert np.array_equal(found[stays], weights[name][stays]), name
        assert (found[~stays] != weights[name][~stays]).mean() > 0.9, name


@pytest.mark.parametrize(("family", "full"), [("lfm2", False), ("gemma2", True), ("phi3", True)])
def test_what_is_kept_for_the_way_back_changes_nothing(
    family: str, full: bool, operations: Operations
) -> None:
    base = checkpoint.open(MODELS / family)
    rows = training_cases.rows(base)
    batches = [plain(*(np.roll(each, by, 1) for each in rows)) for by in range(4)]
    weights = {name: tensor.float32() for name, tensor in base.tensors.items()} if full else None
    plain_net, roomy = (
        network(base, operations, weights, dropout=0.0 if full else 0.3, roomy=roomy)
        for roomy in (False, True)
    )
    for chance, batch in enumerate(batches):
        losses = [net.learn(batch, 1 / batch.wanted, chance) for net in (plain_net, roomy)]
        assert losses[0] == losses[1]
        assert plain_net.loss(batch) == roomy.loss(batch)
    wanted, found = gradients(plain_net), gradients(roomy)
    for name, gradient in wanted.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-6, atol=0, err_msg=name)


@pytest.mark.parametrize("family", ["gemma2", "lfm2"])
def test_samples_in_one_row_do_not_see_each_other(family: str, operations: Operations) -> None:
    base = checkpoint.open(MODELS / family)
    tokens, targets = training_cases.rows(base)
    apart = [plain(tokens[:, part], targets[:, part]) for part in (slice(0, 8), slice(8, 20))]
    first = np.zeros_like(tokens)
    first[:, 8:] = 8
    packed = Batch(tokens, targets, first)
    net = network(base, operations)
    together = net.learn(packed, 1.0)
    found = gradients(net)
    net.forget()
    assert sum(net.learn(batch, 1.0) for batch in apart) == pytest.approx(together, rel=1e-5)
    for name, slope in gradients(net).items():
        np.testing.assert_allclose(found[name], slope, rtol=1e-3, atol=1e-4)


def test_dropout_repeats_itself_and_spares_a_look(operations: Operations) -> None:
    base = checkpoint.open(MODELS / "llama")
    batch = plain(*training_cases.rows(base))
    without = network(base, operations).loss(batch)
    net = network(base, operations, dropout=0.5)
    losses = [net.learn(batch, 1.0, chance) for chance in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
    assert net.loss(batch) == pytest.approx(without, rel=1e-6)


def test_gradients_are_slopes_with_dropout(operations: Operations) -> None:
    """Going back, the same inputs are left out as going forward: against difference quotients."""
    from edgellm.training.memory import write

    base = checkpoint.open(MODELS / "llama")
    batch = plain(*training_cases.rows(base))
    net = network(base, operations, dropout=0.3)
    net.learn(batch, 1 / batch.wanted, chance=7)
    slopes, start = gradients(net), net.arrays()
    norm = np.sqrt(sum((slope**2).sum() for slope in slopes.values()))
    losses = []
    for sign in (1, -1):
        for name, tensor in net.learnt.items():
            write(tensor, start[name] + np.float32(sign * 1e-2 / norm) * slopes[name])
        losses.append(net.learn(batch, 0.0, chance=7) / batch.wanted)
    assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(norm, rel=0.02)
