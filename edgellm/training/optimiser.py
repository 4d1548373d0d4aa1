"""AdamW over the parts of a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tinygrad import Tensor, TinyJit

from edgellm.training.memory import read, write
from edgellm.training.network import Named, Part


@dataclass(frozen=True)
class Rule:
    """Decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2)."""

    beta1: float = 0.9
    beta2: float = 0.999
    decay: float = 0.0
    """Of matrices; vectors don't decay."""
    epsilon: float = 1e-8
    clip: float = 1.0
    """The largest norm of the whole gradient."""


class AdamW:
    """Follows the gradients of some parts, which it sets back to 0.

    Parts of the same names and shapes share captured steps.
    """

    def __init__(self, parts: Sequence[Part], rule: Rule) -> None:
        self.rule = rule
        self.taken = 0
        """Steps so far."""
        self._parts = [part for part in parts if part.learnt]
        self._moments: list[tuple[Named, Named]] = [
            (_like(part.learnt), _like(part.learnt)) for part in self._parts
        ]
        self._factors = Tensor.zeros(4).contiguous().realize()
        self._steps: dict[object, tuple[Callable[..., Tensor], Callable[..., None]]] = {}

    def step(self, learning_rate: float) -> None:
        """One step against the gradients."""
        self.taken += 1
        squares = 0.0
        for part in self._parts:
            norm, _ = self._shared(part)
            squares += float(read(norm(part.gradients, part.free)))
        shrink = min(self.rule.clip / (math.sqrt(squares) + 1e-6), 1.0)
        first, second = (1 / (1 - beta**self.taken) for beta in (self.rule.beta1, self.rule.beta2))
        write(self._factors, np.array([learning_rate, first, second, shrink], np.float32))
        for part, (means, squared) in zip(self._parts, self._moments, strict=True):
            _, update = self._shared(part)
            update(part.learnt, part.gradients, part.free, means, squared, self._factors)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """What `restore` takes."""
        return {
            f"{kind} {index} {name}": read(tensor)
            for index, moments in enumerate(self._moments)
            for kind, tensors in zip(("mean", "square"), moments, strict=True)
            for name, tensor in tensors.items()
        }

    def restore(self, taken: int, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        self.taken = taken
        for index, moments in enumerate(self._moments):
            for kind, tensors in zip(("mean", "square"), moments, strict=True):
                for name, tensor in tensors.items():
                    write(tensor, arrays[f"{kind} {index} {name}"])

    def _shared(self, part: Part) -> tuple[Callable[..., Tensor], Callable[..., None]]:
        kind = (
            frozenset((name, tensor.shape) for name, tensor in part.learnt.items()),
            frozenset(part.free),
        )
        if kind not in self._steps:
            self._steps[kind] = TinyJit(_squares), TinyJit(self._update)
        return self._steps[kind]

    def _update(
        self, learnt: Named, gradients: Named, free: Named, means: Named, squares: Named,
        factors: Tensor,
    ) -> None:  # fmt: skip
        rule, changed = self.rule, []
        rate, first, second, shrink = (factors[index] for index in range(4))
        for name, weight in learnt.items():
            g = (_followed(name, gradients, free) * shrink).contiguous()
            mean = rule.beta1 * means[name] + (1 - rule.beta1) * g
            square = rule.beta2 * squares[name] + (1 - rule.beta2) * g * g
            changed += [means[name].assign(mean), squares[name].assign(square)]
            move = means[name] * first / ((squares[name] * second).sqrt() + rule.epsilon)
            if weight.ndim > 1 and rule.decay:
                decayed = rule.decay * weight
                move = move + (decayed * free[name] if name in free else decayed)
            changed.append(weight.assign(weight - rate * move))
        Tensor.realize(*changed)
        Tensor.realize(*(g.assign(g.zeros_like()) for g in gradients.values()))


def _followed(name: str, gradients: Named, free: Named) -> Tensor:
    """A gradient where its tensor may change."""
    return gradients[name] * free[name] if name in free else gradients[name]


def _squares(gradients: Named, free: Named) -> Tensor:
    parts = [_followed(name, gradients, free).square().sum() for name in gradients]
    return sum(parts[1:], start=parts[0]).realize()


def _like(tensors: Named) -> Named:
    return {
        name: Tensor.zeros(*tensor.shape).contiguous().realize() for name, tensor in tensors.items()
    }
