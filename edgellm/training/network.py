"""A model on its way through training: frozen weights, learning ones, and the way there and back.

Strategy: layers of the same kind share captured steps, which take their weights as inputs, so a
deep model starts as fast as a shallow one. Of the way forward only each layer's input is kept; the
way back computes a layer anew before it goes back through it, so that one layer's activations are
in memory at a time (Chen et al. 2016, arXiv:1604.06174). The head sees only the positions whose
next token is to be learnt, some at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tinygrad import Tensor, TinyJit, dtypes

from edgellm import layout, quant
from edgellm.checkpoint import Checkpoint, StoredTensor
from edgellm.config import Layer
from edgellm.executor import Progress
from edgellm.model import scaled
from edgellm.packing import NOT_PACKED
from edgellm.tensor import MappedTensor
from edgellm.training.batch import IGNORED, Batch
from edgellm.training.memory import read, write
from edgellm.training.operations import Form, Operations
from edgellm.training.transformer import Rows, TrainedTransformer

Named = dict[str, Tensor]

SCORES = 1 << 24
"""Of the head's rows times tokens, at a time: 64 MiB."""


def head_rows(vocabulary: int, positions: int) -> int:
    """Positions that the head computes at a time."""
    return max(min(256, SCORES // vocabulary, positions), 1)


@dataclass
class Part:
    """A layer's tensors, by the rest of their names; the top's by their whole names."""

    frozen: Named
    learnt: Named
    gradients: Named


@dataclass(frozen=True)
class Steps:
    """Captured steps that parts of one kind share."""

    forward: Callable[..., None]
    back: Callable[..., None]
    evaluate: Callable[..., None]
    """The way forward without dropout."""


class Network:
    """A checkpoint's model for batches of one shape (B, T).

    `learnt` are first values by name: adapters' (`blk.0.attn_q.lora_a`, …), or those of tensors of
    the model, which then aren't frozen.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        operations: Operations,
        shape: tuple[int, int],
        learnt: Mapping[str, NDArray[np.float32]],
        *,
        scale: float = 0.0,
        dropout: float = 0.0,
        progress: Progress | None = None,
    ) -> None:
        self.config, self.operations, self.shape = checkpoint.config, operations, shape
        self._tensors = checkpoint.tensors
        self.learnt = {name: _tensor(values) for name, values in learnt.items()}
        self.gradients = {name: _zeros(*x.shape) for name, x in self.learnt.items()}
        frozen, self._forms = self._load(progress)
        self.top, self.layers = self._parts(frozen)
        batch, length = shape
        width = self.config.dim
        self._kept = [_zeros(batch, length, width) for _ in range(len(self.layers) + 1)]
        self._ways = [_zeros(batch, length, width) for _ in range(2)]
        self._first, self._tokens, self._numbers = (
            _zeros(batch, length, dtype=dtypes.int32) for _ in range(3)
        )
        self._chance = _zeros(1, dtype=dtypes.uint32)
        self._steps = self._shared_steps(scale, dropout)
        self._rows = head_rows(self.config.vocab, batch * length)
        self._asked = _zeros(self._rows, width)
        self._wanted = _zeros(self._rows, dtype=dtypes.int32)
        self._share = _zeros(1)
        top = {**self.top.frozen, **self.top.learnt}
        head = TrainedTransformer(self.config, operations, 1, self._forms, top=top)
        self._learn_head, self._score_head = (TinyJit(self._head(head)) for _ in range(2))
        self._lookup = TinyJit(self._embed)
        self._unembed = TinyJit(self._back_to_embedding)

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
                self._kept[index], given, into, self._first, self._chance, part.frozen, part.learnt,
                part.gradients,
            )  # fmt: skip
        if "token_embd.weight" in self.learnt or "position_embd.weight" in self.learnt:
            way_in = self._ways[len(self.layers) % 2]
            self._unembed(way_in, *self._places(batch), self.top.learnt, self.top.gradients)
        return loss

    def loss(self, batch: Batch) -> float:
        """The summed cross-entropy of a batch, dropout off."""
        self._forward(batch, None)
        return self._through_head(batch, None)[0]

    def forget(self) -> None:
        """Set the gradients back to 0."""
        for tensor in self.gradients.values():
            write(tensor, np.zeros(tuple(map(int, tensor.shape)), np.float32))

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """What has been learnt so far, by name."""
        return {name: read(tensor) for name, tensor in self.learnt.items()}

    # --- loading --------------------------------------------------------------------------------

    def _load(self, progress: Progress | None) -> tuple[Named, dict[str, Form]]:
        """The frozen tensors, matrices packed; and how those lie."""
        frozen: Named = {}
        forms: dict[str, Form] = {}
        stored = [
            tensor
            for name, tensor in self._tensors.items()
            if name not in layout.TABLES and name not in self.learnt and name in self._used()
        ]
        total, done = sum(tensor.nbytes for tensor in stored), 0
        for tensor in stored:
            name = tensor.name
            if len(tensor.shape) == 2 and not name.endswith(NOT_PACKED):
                frozen[name], forms[name] = self.operations.pack(tensor)
            else:
                frozen[name] = _tensor(np.atleast_1d(tensor.float32()))
            done += tensor.nbytes
            if progress:
                progress("loading", done, total)
        return frozen, forms

    def _used(self) -> set[str]:
        """Names of tensors that are on the device: embeddings are looked up where they are."""
        untied = {"position_embd.weight"}
        if "output.weight" in self._tensors:
            untied.add("token_embd.weight")
        return set(self._tensors) - untied

    def _parts(self, frozen: Named) -> tuple[Part, list[Part]]:
        top = Part({}, {}, {})
        layers = [Part({}, {}, {}) for _ in self.config.layers]
        for kind, tensors in (
            ("frozen", frozen), ("learnt", self.learnt), ("gradients", self.gradients)
        ):  # fmt: skip
            for name, tensor in tensors.items():
                if name.startswith("blk."):
                    _, index, rest = name.split(".", 2)
                    getattr(layers[int(index)], kind)[rest] = tensor
                else:
                    getattr(top, kind)[name] = tensor
        return top, layers

    # --- layers ---------------------------------------------------------------------------------

    def _shared_steps(self, scale: float, dropout: float) -> list[Steps]:
        steps: list[Steps] = []
        shared: dict[object, Steps] = {}
        for index, (part, layer) in enumerate(zip(self.layers, self.config.layers, strict=True)):
            prefix = f"blk.{index}."
            forms = {
                name.removeprefix(prefix): form
                for name, form in self._forms.items()
                if name.startswith(prefix)
            }
            shapes = {**part.frozen, **part.learnt}
            kind = layer, frozenset(forms.items()), frozenset((n, x.shape) for n, x in shapes.items())
            if kind not in shared:
                shared[kind] = self._steps_of(layer, forms, scale, dropout)
            steps.append(shared[kind])
        return steps

    def _steps_of(
        self, layer: Layer, forms: Mapping[str, Form], scale: float, dropout: float
    ) -> Steps:
        def transformer(share: float) -> TrainedTransformer:
            return TrainedTransformer(
                self.config, self.operations, self.shape[1], forms, scale, share
            )

        learning, plain = transformer(dropout), transformer(0.0)

        def forward(
            x: Tensor, into: Tensor, first: Tensor, chance: Tensor, frozen: Named, learnt: Named
        ) -> None:
            learning.rows = Rows(first, chance)
            into.assign(learning.block({**frozen, **learnt}, layer, x)).realize()

        def evaluate(x: Tensor, into: Tensor, first: Tensor, frozen: Named, learnt: Named) -> None:
            plain.rows = Rows(first, first)
            into.assign(plain.block({**frozen, **learnt}, layer, x)).realize()

        def back(
            x: Tensor, given: Tensor, into: Tensor, first: Tensor, chance: Tensor, frozen: Named,
            learnt: Named, gradients: Named,
        ) -> None:  # fmt: skip
            learning.rows = Rows(first, chance)
            y = learning.block({**frozen, **learnt}, layer, x)
            found = y.gradient(x, *learnt.values(), gradient=given)
            changed = [into.assign(found[0])]
            for name, gradient in zip(learnt, found[1:], strict=True):
                changed.append(_added(gradients[name], gradient))
            Tensor.realize(*changed)

        return Steps(TinyJit(forward), TinyJit(back), TinyJit(evaluate))

    def _forward(self, batch: Batch, chance: int | None) -> None:
        write(self._first, batch.first)
        self._embed_into(self._kept[0], batch)
        for index, (part, steps) in enumerate(zip(self.layers, self._steps, strict=True)):
            x, into = self._kept[index : index + 2]
            if chance is None:
                steps.evaluate(x, into, self._first, part.frozen, part.learnt)
                continue
            self._seed(chance, index)
            steps.forward(x, into, self._first, self._chance, part.frozen, part.learnt)

    def _seed(self, chance: int, layer: int) -> None:
        """Dropout differs from layer to layer."""
        mixed = (chance * 0x9E3779B1 + layer * 0x85EBCA6B) & 0xFFFFFFFF
        write(self._chance, np.array([mixed], np.uint32))

    # --- embeddings -----------------------------------------------------------------------------

    def _embed_into(self, x: Tensor, batch: Batch) -> None:
        if "token_embd.weight" in self.learnt:
            self._lookup(x, *self._places(batch), self.top.learnt)
            return
        values = rows_of(self._tensors["token_embd.weight"], batch.tokens)
        values = values * np.float32(self.config.embed_scale)
        if self.config.position == "learned":
            values = values + rows_of(self._tensors["position_embd.weight"], batch.places())
        write(x, values)

    def _places(self, batch: Batch) -> tuple[Tensor, Tensor]:
        write(self._tokens, batch.tokens)
        write(self._numbers, batch.places())
        return self._tokens, self._numbers

    def _embed(self, into: Tensor, tokens: Tensor, places: Tensor, learnt: Named) -> None:
        into.assign(self._embedding(tokens, places, learnt)).realize()

    def _embedding(self, tokens: Tensor, places: Tensor, learnt: Named) -> Tensor:
        x = scaled(
            self.operations.lookup(learnt["token_embd.weight"], tokens), self.config.embed_scale
        )
        if self.config.position == "learned":
            x = x + self.operations.lookup(learnt["position_embd.weight"], places)
        return x

    def _back_to_embedding(
        self, way: Tensor, tokens: Tensor, places: Tensor, learnt: Named, gradients: Named
    ) -> None:
        names = [n for n in ("token_embd.weight", "position_embd.weight") if n in learnt]
        x = self._embedding(tokens, places, learnt)
        found = x.gradient(*(learnt[name] for name in names), gradient=way)
        Tensor.realize(
            *(_added(gradients[n], g) for n, g in zip(names, found, strict=True))
        )

    # --- the head -------------------------------------------------------------------------------

    def _head(self, head: TrainedTransformer) -> Callable[..., tuple[Tensor, ...]]:
        def run(
            x: Tensor, wanted: Tensor, share: Tensor, frozen: Named, learnt: Named,
            gradients: Named | None = None,
        ) -> tuple[Tensor, ...]:
            head.top = {**frozen, **learnt}
            scores = head.logits(head.final(x)).contiguous()  # (N, V)
            losses, by_scores = self.operations.entropy(scores, wanted)
            if gradients is None:
                return (losses.sum().realize(),)
            moved = [n for n in learnt if not n.startswith("position_embd")]
            if "output.weight" in head.top and "token_embd.weight" in moved:
                moved.remove("token_embd.weight")  # it learns from the first layer alone
            found = scores.gradient(x, *(learnt[n] for n in moved), gradient=by_scores * share)
            loss, way = losses.sum(), found[0].contiguous()
            changed = [
                _added(gradients[n], g) for n, g in zip(moved, found[1:], strict=True)
            ]
            Tensor.realize(loss, way, *changed)
            return loss, way

        return run

    def _through_head(
        self, batch: Batch, share: float | None
    ) -> tuple[float, NDArray[np.float32]]:
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


def _tensor(values: NDArray[np.generic]) -> Tensor:
    return Tensor(np.ascontiguousarray(values)).realize()


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
