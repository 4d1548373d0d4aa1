"""The Transformer as it is trained: whole rows at a time, with adapters beside its matrices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tinygrad import Tensor, dtypes

from edgellm.config import Config, Layer
from edgellm.model import Block, Position, Transformer
from edgellm.training.names import LOW, UP
from edgellm.training.operations import Attention, Form, Operations, Place


@dataclass(frozen=True)
class Rows:
    """What belongs to the rows (B, T) of a batch besides their activations."""

    first: Tensor
    """(B, T), int32: where the sample begins that a position belongs to. Nothing before it is
    seen."""
    chance: Tensor
    """(1,), uint32: what dropout draws from."""


class Results:
    """Where a layer's products and attention are kept, in the order in which they are computed."""

    def __init__(self, memory: Iterable[Tensor], made: bool) -> None:
        """`made`: they stand there already."""
        self._memory, self._made = iter(memory), made

    def place(self, shape: tuple[int, ...]) -> Place | None:
        return Place(next(self._memory).reshape(shape), self._made)


class Sizes(Results):
    """Notes down how many numbers each of them is."""

    def __init__(self) -> None:
        super().__init__((), made=False)
        self.noted: list[int] = []

    def place(self, shape: tuple[int, ...]) -> None:
        self.noted.append(math.prod(shape))


class TrainedTransformer(Transformer):
    """Layers of one kind, or the head, over Tensors in `forms` (frozen, packed) or not (learning).

    `rows` is set before a layer is computed, and `results` where they are kept.
    """

    rows: Rows
    results: Results | None = None

    def __init__(
        self,
        config: Config,
        operations: Operations,
        length: int,
        forms: Mapping[str, Form],
        scale: float = 0.0,
        dropout: float = 0.0,
        top: Block | None = None,
    ) -> None:
        """`scale` multiplies what adapters add, `dropout` is the share of their inputs that is left
        out; `top` are the tensors of the head, whose forms go by their full names."""
        self.operations, self.forms = operations, forms
        self.scale, self.dropout = scale, dropout
        super().__init__(config, top or {}, length)

    def make_tables(self) -> None:
        config = self.config
        if config.position == "learned":
            # Whoever looks up the embeddings adds them.
            self.ropes, self.slopes = [], None
        else:
            super().make_tables()

    def project(self, x: Tensor, block: Block, *names: str) -> list[Tensor]:
        flat = x.reshape(-1, x.shape[-1])
        return [
            self._projected(flat, block, name, index).reshape(*x.shape[:-1], -1)
            for index, name in enumerate(names)
        ]

    def _projected(self, x: Tensor, block: Block, name: str, index: int) -> Tensor:
        weight, form = block[f"{name}.weight"], self.forms.get(f"{name}.weight")
        place = self._place(
            int(x.shape[0]), int(weight.shape[0] if form is None else form.shape[0])
        )
        if form is None:
            y = self.operations.product(x, weight, turned=True, place=place)
            return self.affine(y, block, name)
        if f"{name}.{LOW}" not in block:
            return self.affine(self.operations.linear(x, weight, form, place=place), block, name)
        up = block[f"{name}.{UP}"]
        seen = self._thinned(x, index) if self.dropout else x
        low = self.operations.product(seen, block[f"{name}.{LOW}"], turned=True) * self.scale
        if f"{name}.scale" in block:  # which is the matrix's own, not the adapter's
            y = self.operations.linear(x, weight, form, place=place)
            y = self.affine(y, block, name)
            return y + self.operations.product(low, up, turned=True)
        y = self.operations.linear(x, weight, form, low, up, place)
        return self.affine(y, block, name)

    def _place(self, *shape: int) -> Place | None:
        return self.results.place(shape) if self.results else None

    def _thinned(self, x: Tensor, index: int) -> Tensor:
        """x with a share of its values left out and the others made larger by as much.

        Which, follows from `rows.chance`: going back, the same are left out. The mixing is
        MurmurHash3's last step (public domain, Austin Appleby).
        """
        count = int(x.numel())
        bits = Tensor.arange(count, dtype=dtypes.uint32) * 0x9E3779B1 + index * 0x85EBCA77
        bits = bits.cast(dtypes.uint32) ^ self.rows.chance
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            bits = (bits ^ (bits >> shift)) * factor
        kept = (bits ^ (bits >> 16)) >= int(self.dropout * 2**32)
        return kept.reshape(x.shape).where(x * (1 / (1 - self.dropout)), 0.0)

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        return self.operations.gated(gate, up, self.config.activation)

    def products(self, x: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
        """The head's product: of rows (N, D) with the one matrix there is."""
        (weight,) = weights
        form = self.forms.get("output.weight", self.forms.get("token_embd.weight"))
        if form is None:
            return [self.operations.product(x, weight, turned=True)]
        return [self.operations.linear(x, weight, form)]

    def attend(
        self,
        layer: Layer,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rows: Tensor | None,
        slot: Position,
        start: Position,
    ) -> Tensor:
        config = self.config
        batch, heads, count, width = map(int, q.shape)
        how = Attention(
            config.attn_scale or width**-0.5, config.attn_softcap, layer.window, self.slopes
        )
        # (B, T, heads, C) each, as they came from their products.
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        place = self._place(*map(int, q.shape))
        out = self.operations.attend(q, k, v, self.rows.first, how, place)
        return out.reshape(batch, count, heads * width)

    def convolve(
        self, block: Block, past: Tensor, rows: Tensor | None, slot: Position, start: Position
    ) -> Tensor:
        taps, count = self.config.conv_taps, int(past.shape[1])
        place = Tensor.arange(count).reshape(1, count) - self.rows.first  # within its sample
        padded = past.pad((None, (taps - 1, 0), None))  # (B, taps-1+T, D)
        kernel = block["shortconv.conv.weight"].cast(dtypes.float32)  # (D, taps)
        out = Tensor(0.0)
        for tap in range(taps):
            inside = (place >= taps - 1 - tap).unsqueeze(-1)
            out = out + inside.where(padded[:, tap : tap + count], 0.0) * kernel[:, tap]
        return out  # (B, T, D)
