"""The way of batches of one shape through a network, and back.

Strategy: layers of the same kind share captured steps, which take their weights as inputs, so a
deep model starts as fast as a shallow one. Of the way forward only each layer's input is kept; the
way back computes a layer anew before it goes back through it, so that one layer's activations are
in memory at a time (Chen et al. 2016, arXiv:1604.06174). Where there is room, what a layer's
products and attention gave is kept, too: little is left to compute anew, and a seventh of the
time is saved. The head sees only the positions whose next token is to be learnt, some at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tinygrad import Tensor, TinyJit, dtypes

from edgellm import quant
from edgellm.checkpoint import StoredTensor
from edgellm.config import Layer
from edgellm.model import scaled
from edgellm.tensor import MappedTensor
from edgellm.training.batch import IGNORED, Batch, head_rows
from edgellm.training.memory import read, write
from edgellm.training.operations import Form
from edgellm.training.transformer import Results, Rows, Sizes, TrainedTransformer

if TYPE_CHECKING:
    from edgellm.training.network import Named, Network, Part

EMBEDDINGS = ("token_embd.weight", "position_embd.weight")


@dataclass(frozen=True)
class Steps:
    """Captured steps that layers of one kind share."""

    forward: Callable[..., None]
    evaluate: Callable[..., None]
    """The way forward without dropout."""
    back: Callable[..., None]


class Passage:
    """The memory and the captured steps for batches (B, T)."""

    def __init__(self, network: Network, batch: int, length: int) -> None:
        self.network, self.config, self.operations = network, network.config, network.operations
        self.top, self.layers, self.shape = network.top, network.layers, (batch, length)
        width = self.config.dim
        self._kept = [_zeros(batch, length, width) for _ in range(len(self.layers) + 1)]
        self._ways = [_zeros(batch, length, width) for _ in range(2)]
        self._first, self._tokens, self._places = (
            _zeros(batch, length, dtype=dtypes.int32) for _ in range(3)
        )
        self._chance = _zeros(1, dtype=dtypes.uint32)
        self._steps = self._shared_steps()
        self._results = [
            [_zeros(size) for size in self._sizes(*each)] if network.roomy else []
            for each in zip(self.layers, self.config.layers, strict=True)
        ]
        self._rows = head_rows(self.config.vocab, batch * length)
        self._asked = _zeros(self._rows, width)
        self._wanted = _zeros(self._rows, dtype=dtypes.int32)
        self._share = _zeros(1)
        self._learn_head, self._score_head = (TinyJit(self._head()) for _ in range(2))
        self._lookup = TinyJit(self._embed)
        self._back_to_embedding = TinyJit(self._unembed)

    def learn(self, batch: Batch, share: float, chance: int = 0) -> float:
        """Add to the gradients `share` of those of the summed cross-entropy of a batch, which is
        returned. `chance` seeds dropout."""
        self._forward(batch, chance)
        loss, way = self._through_head(batch, share)
        write(self._ways[0], way)
        for index in reversed(range(len(self.layers))):
            self._seed(chance, index)
            given, into = self._ways if (len(self.layers) - index) % 2 else self._ways[::-1]
            part = self.layers[index]
            self._steps[index].back(
                self._kept[index], given, into, self._first, self._chance, self._results[index],
                part.frozen, part.learnt, part.gradients,
            )  # fmt: skip
        if "token_embd.weight" in self.top.learnt:
            way_in = self._ways[len(self.layers) % 2]
            places = self._placed(batch)
            self._back_to_embedding(way_in, *places, self.top.learnt, self.top.gradients)
        return loss

    def loss(self, batch: Batch) -> float:
        """The summed cross-entropy of a batch, dropout off."""
        self._forward(batch, None)
        return self._through_head(batch, None)[0]

    # --- layers ---------------------------------------------------------------------------------

    def _shared_steps(self) -> list[Steps]:
        steps: list[Steps] = []
        shared: dict[object, Steps] = {}
        for part, layer in zip(self.layers, self.config.layers, strict=True):
            shapes = frozenset((n, x.shape) for n, x in {**part.frozen, **part.learnt}.items())
            kind = layer, frozenset(part.forms.items()), frozenset(part.learnt), shapes
            if kind not in shared:
                shared[kind] = self._steps_of(layer, part.forms)
            steps.append(shared[kind])
        return steps

    def _steps_of(self, layer: Layer, forms: Mapping[str, Form]) -> Steps:
        learning, plain = self._transformer(forms, self.network.dropout), self._transformer(forms)

        def forward(
            x: Tensor, into: Tensor, first: Tensor, chance: Tensor, results: list[Tensor],
            frozen: Named, learnt: Named,
        ) -> None:  # fmt: skip
            learning.rows = Rows(first, chance)
            learning.results = Results(results, made=False) if results else None
            into.assign(learning.block({**frozen, **learnt}, layer, x)).realize()

        def evaluate(x: Tensor, into: Tensor, first: Tensor, frozen: Named, learnt: Named) -> None:
            plain.rows = Rows(first, first)
            into.assign(plain.block({**frozen, **learnt}, layer, x)).realize()

        def back(
            x: Tensor, given: Tensor, into: Tensor, first: Tensor, chance: Tensor,
            results: list[Tensor], frozen: Named, learnt: Named, gradients: Named,
        ) -> None:  # fmt: skip
            learning.rows = Rows(first, chance)
            learning.results = Results(results, made=True) if results else None
            y = learning.block({**frozen, **learnt}, layer, x)
            found = y.gradient(x, *learnt.values(), gradient=given)
            changed = [into.assign(found[0])]
            for name, gradient in zip(learnt, found[1:], strict=True):
                changed.append(_added(gradients[name], gradient))
            Tensor.realize(*changed)

        return Steps(TinyJit(forward), TinyJit(evaluate), TinyJit(back))

    def _transformer(self, forms: Mapping[str, Form], dropout: float = 0.0) -> TrainedTransformer:
        return TrainedTransformer(
            self.config, self.operations, self.shape[1], forms, self.network.scale, dropout
        )

    def _sizes(self, part: Part, layer: Layer) -> list[int]:
        """Of the results of a layer, found by a look at what would be computed."""
        tried, sizes = self._transformer(part.forms), Sizes()
        tried.rows, tried.results = Rows(self._first, self._chance), sizes
        tried.block({**part.frozen, **part.learnt}, layer, self._kept[0])
        return sizes.noted

    def _forward(self, batch: Batch, chance: int | None) -> None:
        write(self._first, batch.first)
        self._embed_into(self._kept[0], batch)
        for index, (part, steps) in enumerate(zip(self.layers, self._steps, strict=True)):
            x, into = self._kept[index : index + 2]
            if chance is None:
                steps.evaluate(x, into, self._first, part.frozen, part.learnt)
                continue
            self._seed(chance, index)
            results = self._results[index]
            steps.forward(x, into, self._first, self._chance, results, part.frozen, part.learnt)

    def _seed(self, chance: int, layer: int) -> None:
        """Dropout differs from layer to layer."""
        mixed = (chance * 0x9E3779B1 + layer * 0x85EBCA6B) & 0xFFFFFFFF
        write(self._chance, np.array([mixed], np.uint32))

    # --- embeddings -----------------------------------------------------------------------------

    def _embed_into(self, x: Tensor, batch: Batch) -> None:
        if "token_embd.weight" in self.top.learnt:
            self._lookup(x, *self._placed(batch), self.top.learnt)
            return
        values = rows_of(self.network.tensors["token_embd.weight"], batch.tokens)
        values = values * np.float32(self.config.embed_scale)
        if self.config.position == "learned":
            values = values + rows_of(self.network.tensors["position_embd.weight"], batch.places())
        write(x, values)

    def _placed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        write(self._tokens, batch.tokens)
        write(self._places, batch.places())
        return self._tokens, self._places

    def _embed(self, into: Tensor, tokens: Tensor, places: Tensor, learnt: Named) -> None:
        into.assign(self._embedding(tokens, places, learnt)).realize()

    def _embedding(self, tokens: Tensor, places: Tensor, learnt: Named) -> Tensor:
        x = scaled(
            self.operations.lookup(learnt["token_embd.weight"], tokens), self.config.embed_scale
        )
        if self.config.position == "learned":
            x = x + self.operations.lookup(learnt["position_embd.weight"], places)
        return x

    def _unembed(
        self, way: Tensor, tokens: Tensor, places: Tensor, learnt: Named, gradients: Named
    ) -> None:
        names = [name for name in EMBEDDINGS if name in learnt]
        x = self._embedding(tokens, places, learnt)
        found = x.gradient(*(learnt[name] for name in names), gradient=way)
        Tensor.realize(*(_added(gradients[n], g) for n, g in zip(names, found, strict=True)))

    # --- the head -------------------------------------------------------------------------------

    def _head(self) -> Callable[..., tuple[Tensor, ...]]:
        top = {**self.top.frozen, **self.top.learnt}
        head = TrainedTransformer(self.config, self.operations, 1, self.top.forms, top=top)

        def run(
            x: Tensor,
            wanted: Tensor,
            share: Tensor,
            frozen: Named,
            learnt: Named,
            gradients: Named | None = None,
        ) -> tuple[Tensor, ...]:
            head.top = {**frozen, **learnt}
            scores = head.logits(head.final(x)).contiguous()  # (N, V)
            losses, by_scores = self.operations.entropy(scores, wanted)
            if gradients is None:
                return (losses.sum().realize(),)
            # Embeddings that aren't the output, too, learn at the beginning alone.
            apart = EMBEDDINGS if "output.weight" in head.top else EMBEDDINGS[1:]
            moved = [name for name in learnt if name not in apart]
            found = scores.gradient(x, *(learnt[n] for n in moved), gradient=by_scores * share)
            loss, way = losses.sum(), found[0].contiguous()
            changed = [_added(gradients[n], g) for n, g in zip(moved, found[1:], strict=True)]
            Tensor.realize(loss, way, *changed)
            return loss, way

        return run

    def _through_head(self, batch: Batch, share: float | None) -> tuple[float, NDArray[np.float32]]:
        """The summed loss and, with a share, the gradient by the last layer's output (B, T, D)."""
        hidden = read(self._kept[-1]).reshape(-1, self.config.dim)
        way = np.zeros_like(hidden)
        wanted = batch.targets.reshape(-1)
        (places,) = np.nonzero(wanted >= 0)
        write(self._share, np.array([share or 0.0], np.float32))
        given = self._asked, self._wanted, self._share, self.top.frozen, self.top.learnt
        loss = 0.0
        for begin in range(0, len(places), self._rows):
            some = places[begin : begin + self._rows]
            # The captured step takes a fixed number of rows: the last ones are filled up.
            asked = np.zeros((self._rows, self.config.dim), np.float32)
            answers = np.full(self._rows, IGNORED, np.int32)
            asked[: len(some)], answers[: len(some)] = hidden[some], wanted[some]
            write(self._asked, asked)
            write(self._wanted, answers)
            if share is None:
                (found,) = self._score_head(*given)
            else:
                found, back = self._learn_head(*given, self.top.gradients)
                way[some] = read(back)[: len(some)]
            loss += float(read(found))
        return loss, way.reshape(*self.shape, -1)


def _added(total: Tensor, part: Tensor) -> Tensor:
    return total.assign(total + part.reshape(total.shape))


def _zeros(*shape: int, dtype: object = dtypes.float32) -> Tensor:
    return Tensor.zeros(*shape, dtype=dtype).contiguous().realize()


def rows_of(tensor: StoredTensor, which: NDArray[np.int32]) -> NDArray[np.float32]:
    """Rows of a matrix by their numbers (…): (…, columns), dequantised one by one."""
    names, places = np.unique(which, return_inverse=True)
    if isinstance(tensor, MappedTensor):
        kind, width = quant.TYPES[tensor.type], tensor.shape[1]
        stored = np.frombuffer(tensor.data, np.uint8).reshape(tensor.shape[0], -1)
        assert stored.shape[1] == kind.nbytes((1, width))
        values = quant.dequantise(
            tensor.type, np.ascontiguousarray(stored[names]).reshape(-1), (len(names), width)
        )
    else:
        values = tensor.float32()[names]
    return np.ascontiguousarray(values[places.reshape(-1)].reshape(*which.shape, -1))
