"""A model on its way through training: frozen weights, learning ones, and their gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tinygrad import Tensor

from edgellm import layout
from edgellm.checkpoint import StoredTensor
from edgellm.config import Config
from edgellm.executor import Progress
from edgellm.packing import NOT_PACKED
from edgellm.tensor import MappedTensor
from edgellm.training.batch import Batch
from edgellm.training.memory import read, write
from edgellm.training.operations import Form, Operations
from edgellm.training.passage import Passage

Named = dict[str, Tensor]


@dataclass(frozen=True)
class Part:
    """A layer's tensors, by the rest of their names; the top's by their whole names."""

    frozen: Named
    forms: dict[str, Form]
    """Of the frozen matrices."""
    learnt: Named
    gradients: Named
    free: Named
    """Of some that are learnt: 1 where a number may change, 0 where it is to stay."""


class Network:
    """A model, whose `learnt` are first values by name: adapters' (`blk.0.attn_q.lora_a`, …), or
    those of its own tensors, which then aren't frozen. `tensors` are all that it has besides.

    What adapters add is multiplied by `scale`; `dropout` is the share of their inputs left out.
    `kept` is what of the learnt ones is to stay as it is. If it is `roomy`, memory is spent to save
    time: what is computed on the way forward is kept for the way back.
    """

    def __init__(
        self,
        config: Config,
        tensors: Mapping[str, StoredTensor],
        operations: Operations,
        learnt: Mapping[str, NDArray[np.float32]],
        *,
        scale: float = 0.0,
        dropout: float = 0.0,
        kept: Mapping[str, NDArray[np.bool_]] | None = None,
        roomy: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.config, self.tensors, self.operations = config, tensors, operations
        self.scale, self.dropout, self.roomy = scale, dropout, roomy
        self.top = Part({}, {}, {}, {}, {})
        self.layers = [Part({}, {}, {}, {}, {}) for _ in config.layers]
        self.learnt: Named = {}
        for name, values in learnt.items():
            part, rest = self._place(name)
            self.learnt[name] = part.learnt[rest] = _tensor(values)
            part.gradients[rest] = _tensor(np.zeros(values.shape, np.float32))
            if kept and name in kept:
                part.free[rest] = _tensor((~kept[name]).astype(np.float32))
        self._load(progress)
        self._passages: dict[tuple[int, ...], Passage] = {}

    def learn(self, batch: Batch, share: float, chance: int = 0) -> float:
        """Add to the gradients `share` of those of the summed cross-entropy of a batch, which is
        returned. `chance` seeds dropout."""
        return self._passage(batch).learn(batch, share, chance)

    def loss(self, batch: Batch) -> float:
        """The summed cross-entropy of a batch, dropout off."""
        return self._passage(batch).loss(batch)

    def forget(self) -> None:
        """Set the gradients back to 0."""
        for part in (*self.layers, self.top):
            for tensor in part.gradients.values():
                write(tensor, np.zeros(tuple(map(int, tensor.shape)), np.float32))

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """What has been learnt so far, by name."""
        return {name: read(tensor) for name, tensor in self.learnt.items()}

    def _passage(self, batch: Batch) -> Passage:
        shape = batch.tokens.shape
        if shape not in self._passages:
            self._passages[shape] = Passage(self, int(shape[0]), int(shape[1]))
        return self._passages[shape]

    def _place(self, name: str) -> tuple[Part, str]:
        """The part that a tensor belongs to, and its name there."""
        if not name.startswith("blk."):
            return self.top, name
        _, index, rest = name.split(".", 2)
        return self.layers[int(index)], rest

    def _load(self, progress: Progress | None) -> None:
        """The frozen tensors, matrices packed. Embeddings are looked up where they lie."""
        apart = {"position_embd.weight", *layout.TABLES, *self.learnt}
        if "output.weight" in self.tensors or "output.weight" in self.learnt:
            apart.add("token_embd.weight")
        stored = [tensor for name, tensor in self.tensors.items() if name not in apart]
        total, done = sum(tensor.nbytes for tensor in stored), 0
        for tensor in stored:
            part, rest = self._place(tensor.name)
            if len(tensor.shape) == 2 and not tensor.name.endswith(NOT_PACKED):
                part.frozen[rest], part.forms[rest] = self.operations.pack(tensor)
            else:
                part.frozen[rest] = _tensor(np.atleast_1d(tensor.float32()))
            done += tensor.nbytes
            if isinstance(tensor, MappedTensor):
                tensor.release()
            if progress:
                progress("loading", done, total)


def _tensor(values: NDArray[np.float32]) -> Tensor:
    return Tensor(np.ascontiguousarray(values)).realize()
