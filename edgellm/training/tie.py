"""What the rows of the head learn in common."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgellm.training.memory import read, write
from edgellm.training.network import Part
from edgellm.training.optimiser import Rule

HEAD, TABLE = "output.weight", "token_embd.weight"

Array = NDArray[np.float32]


class Tie:
    """Moves each row of the head along its token's embedding, by one matrix for all of them.

    What repeats a token must be learnt for each of them where the rows are free, and a rare one's
    hardly learns anything but to be unlikely: Adam, which divides by how large gradients are,
    carries it off. What repeats the common ones, this matrix learns for all. With tied weights
    (Press and Wolf 2017, arXiv:1608.05859) there would be nothing else.

    Channels of the embeddings that aren't free have no part in it.
    """

    def __init__(self, top: Part, rule: Rule) -> None:
        self.taken = 0
        """Steps so far."""
        self._top, self._rule = top, rule
        size = int(top.learnt[TABLE].shape[1])
        free = read(top.free[TABLE]).all(axis=0) if TABLE in top.free else np.ones(size, bool)
        self._free = np.flatnonzero(free)
        self._mean, self._square = np.zeros((2, len(self._free), len(self._free)), np.float32)

    def step(self, learning_rate: float) -> None:
        """One step of Adam against the head's gradient, before that is set back to 0."""
        self.taken += 1
        first, second = self._rule.beta1, self._rule.beta2
        table, head = read(self._top.learnt[TABLE])[:, self._free], read(self._top.learnt[HEAD])
        g = table.T @ read(self._top.gradients[HEAD])[:, self._free]
        self._mean += (1 - first) * (g - self._mean)
        self._square += (1 - second) * (g * g - self._square)
        size = np.sqrt(self._square / (1 - second**self.taken)) + self._rule.epsilon
        move = self._mean / (1 - first**self.taken) / size
        moved = head.copy()
        moved[:, self._free] -= table @ (learning_rate * move).astype(np.float32)
        write(self._top.learnt[HEAD], moved)

    def arrays(self) -> dict[str, Array]:
        """What `restore` takes."""
        taken = np.array([self.taken], np.float32)
        return {"tie taken": taken, "tie mean": self._mean, "tie square": self._square}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self.taken = int(arrays["tie taken"][0])
        self._mean, self._square = arrays["tie mean"].copy(), arrays["tie square"].copy()
