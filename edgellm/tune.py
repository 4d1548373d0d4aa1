"""Training a model in tinygrad: full training of every weight, on the tokens of the answers."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tinygrad import Tensor, TinyJit, dtypes

from edgellm.config import Config, Layer
from edgellm.model import Linear, Position, Transformer, linear
from edgellm.training.dialogues.rows import IGNORED
from edgellm.training.initial_weights import Weights
from edgellm.training.matrix_product import product, tiled_linear

Batch = tuple[NDArray[np.int32], NDArray[np.int32]]
"""Tokens and targets, each (B, T)."""


class TiledTransformer(Transformer):
    """The same Transformer, for a Llama, cut into kernels that a CPU goes backward through quickly.

    Embeddings are looked up by a matrix product, whose gradient is one too; what attention's
    products read is computed once and not for each of their outputs.
    """

    def embed(self, tokens: Tensor, start: Position = 0) -> Tensor:
        weight = self.top["token_embd.weight"]
        chosen = tokens.reshape(-1, 1) == Tensor.arange(weight.shape[0]).reshape(1, -1)
        x = product(chosen.cast(dtypes.float32), weight)
        return x.reshape(*tokens.shape, weight.shape[1])  # (B, T, D)

    def rotate(self, x: Tensor, layer: Layer, start: Position) -> Tensor:
        return _cut(super().rotate(x, layer, start))

    def shares(self, scores: Tensor) -> Tensor:
        return _cut(super().shares(_cut(scores)))


def _cut(x: Tensor) -> Tensor:
    """x, and the gradient that comes back to it, each as a result of its own kernel."""
    return x.contiguous().contiguous_backward()


@dataclass(frozen=True)
class AdamW:
    """Decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2)."""

    beta1: float = 0.9
    beta2: float = 0.98
    decay: float = 0.02
    """Of matrices; norms don't decay."""
    epsilon: float = 1e-8
    clip: float = 1.0
    """The gradient's largest norm."""


def rate(step: int, steps: int, peak: float, warm_up: int = 200) -> float:
    """The learning rate: linear up to `peak`, level, and for the last 40 % half a cosine down to a
    fiftieth of it (Hu et al. 2024, arXiv:2404.06395, section 4: warm-up, stable, decay)."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    level = 0.6 * steps
    done = min(max(step - level, 0) / (steps - level), 1.0)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


class Trainer:
    """A Transformer whose weights follow the gradient of the answers' cross-entropy.

    `tiled` computes by `edgellm.training.matrix_product`, which suits a CPU: then every dimension
    of the model, and B*T, must be a multiple of 16.
    """

    def __init__(
        self, config: Config, weights: Mapping[str, NDArray[np.float32]], tiled: bool = True
    ) -> None:
        self.optimiser = AdamW()
        self.weights = {name: Tensor(values).realize() for name, values in weights.items()}
        kind = TiledTransformer if tiled else Transformer
        by: Linear = tiled_linear if tiled else linear
        self.transformer = kind(config, self.weights, config.context, linear=by)
        self._means, self._squares = (
            [Tensor.zeros(*w.shape).contiguous().realize() for w in self.weights.values()]
            for _ in range(2)
        )
        self._steps: dict[tuple[int, ...], Callable[[Tensor, Tensor, Tensor], Tensor]] = {}
        self.taken = 0
        """Steps so far."""

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy of targets (B, T) that aren't IGNORED."""
        scores = self.transformer.logits(self.transformer.hidden(tokens))  # (B, T, V)
        total = scores.contiguous().sparse_categorical_crossentropy(
            targets, ignore_index=IGNORED, reduction="sum"
        )
        return total / (targets != IGNORED).sum()

    def gradients(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, list[Tensor]]:
        loss = self.loss(tokens, targets)
        return loss, loss.gradient(*self.weights.values())

    def step(self, batch: Batch, learning_rate: float) -> float:
        """Follow the gradient of one batch; returns its loss before."""
        tokens, targets = batch
        shape = tokens.shape
        if shape not in self._steps:
            self._steps[shape] = TinyJit(self._update)
        self.taken += 1
        rule = self.optimiser
        factors = (
            learning_rate,
            1 / (1 - rule.beta1**self.taken),
            1 / (1 - rule.beta2**self.taken),
        )
        loss = self._steps[shape](
            Tensor(np.ascontiguousarray(tokens)).realize(),
            Tensor(np.ascontiguousarray(targets)).realize(),
            Tensor(np.asarray(factors, np.float32)).realize(),
        )
        return float(loss.item())

    def _update(self, tokens: Tensor, targets: Tensor, factors: Tensor) -> Tensor:
        rule = self.optimiser
        loss, gradients = self.gradients(tokens, targets)
        gradients = [g.contiguous() for g in gradients]
        norm = sum((g.square().sum() for g in gradients), start=Tensor(0.0)).sqrt()
        shrink = (rule.clip / (norm + 1e-6)).minimum(1.0).contiguous()
        learning_rate, first, second = factors[0], factors[1], factors[2]
        changed: list[Tensor] = []
        parts = zip(self.weights.values(), self._means, self._squares, gradients, strict=True)
        for weight, mean, square, gradient in parts:
            g = gradient * shrink
            mean.assign(rule.beta1 * mean + (1 - rule.beta1) * g)
            square.assign(rule.beta2 * square + (1 - rule.beta2) * g * g)
            move = mean * first / ((square * second).sqrt() + rule.epsilon)
            if weight.ndim > 1:
                move = move + rule.decay * weight
            weight.assign(weight - learning_rate * move)
            changed += [weight, mean, square]
        return loss.realize(*changed)

    def arrays(self) -> Weights:
        """The weights as they are now."""
        return {name: weight.numpy() for name, weight in self.weights.items()}

    def save(self, path: Path) -> None:
        """Write all that `restore` needs to go on as if nothing had happened."""
        states = zip(self.weights.items(), self._means, self._squares, strict=True)
        saved = {
            f"{part} {name}": tensor.numpy()
            for (name, weight), mean, square in states
            for part, tensor in (("weight", weight), ("mean", mean), ("square", square))
        }
        partial = path.with_name(f".{path.name}.npz")
        np.savez(partial, allow_pickle=False, taken=np.asarray(self.taken), **saved)
        partial.replace(path)

    def restore(self, path: Path) -> None:
        with np.load(path) as saved:
            self.taken = int(saved["taken"])
            states = zip(self.weights.items(), self._means, self._squares, strict=True)
            for (name, weight), mean, square in states:
                for part, tensor in (("weight", weight), ("mean", mean), ("square", square)):
                    tensor.assign(Tensor(saved[f"{part} {name}"])).realize()


def train(
    trainer: Trainer,
    batches: Callable[[int], Batch],
    steps: int,
    peak: float,
    every: int = 100,
    report: Callable[[int, float], None] | None = None,
) -> None:
    """Train up to step `steps`, from wherever the trainer is; `batches(step)` gives each batch.

    Prints the mean loss every so many steps, and then calls `report(step, loss)`.
    """
    began, losses, tokens = time.monotonic(), [], 0
    for step in range(trainer.taken, steps):
        batch = batches(step)
        losses.append(trainer.step(batch, rate(step, steps, peak)))
        tokens += batch[0].size
        if (step + 1) % every == 0 or step + 1 == steps:
            seconds = time.monotonic() - began
            loss = float(np.mean(losses))
            print(
                f"step {step + 1}/{steps}  loss {loss:.4f}  {tokens / seconds:.0f} tokens/s  "
                f"{seconds / 60:.1f} min",
                file=sys.stderr,
                flush=True,
            )
            losses.clear()
            if report:
                report(step + 1, loss)
