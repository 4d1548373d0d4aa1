"""A Transformer with adapters at strengths that may change between its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from tinygrad import Tensor, dtypes

from edgellm.adapter import Adapter
from edgellm.config import Config
from edgellm.errors import UsageError
from edgellm.model import Block, Transformer


class AdaptedTransformer(Transformer):
    """Computes y + B (s A x) for a matrix with adapters, all of them in one A and one B.

    Their tensors lie among the weights, so that a captured step takes those of its layer.
    """

    def __init__(
        self,
        config: Config,
        weights: Mapping[str, Tensor],
        context: int,
        margin: int,
        adapters: Sequence[Adapter],
    ) -> None:
        self._strengths = Tensor.zeros(len(adapters)).contiguous().realize()
        self._now: tuple[float, ...] = (0.0,) * len(adapters)
        super().__init__(config, {**weights, **_tensors(weights, adapters)}, context, margin)

    def adapt(self, strengths: Sequence[float]) -> None:
        """Set the adapters' strengths for the steps from now on."""
        if tuple(strengths) != self._now:
            self._now = tuple(strengths)
            self._strengths.assign(Tensor(list(strengths), dtype=dtypes.float32)).realize()

    def project(self, x: Tensor, block: Block, *names: str) -> list[Tensor]:
        made = super().project(x, block, *names)
        return [self._adapted(y, x, block, name) for y, name in zip(made, names, strict=True)]

    def scores(self, hidden: Tensor) -> Tensor:
        return self._adapted(super().scores(hidden), hidden, self.top, "output")

    def _adapted(self, y: Tensor, x: Tensor, block: Block, name: str) -> Tensor:
        if f"{name}.adapters.a" not in block:
            return y
        a, b, owner = (block[f"{name}.adapters.{part}"] for part in ("a", "b", "owner"))
        factors = owner @ self._strengths  # (R,)
        inner = (x @ a.transpose() * factors).contiguous()  # (B, T, R)
        return (y + inner @ b.transpose()).contiguous()


def _tensors(weights: Mapping[str, Tensor], adapters: Sequence[Adapter]) -> dict[str, Tensor]:
    """For each matrix that has any: A (R, in), B (out, R) and which adapter a rank is of (R, N)."""
    made: dict[str, Tensor] = {}
    for name in dict.fromkeys(name for adapter in adapters for name in adapter.matrices):
        if name not in weights:
            raise UsageError(f"the model doesn't multiply with {name}, which an adapter changes")
        found = [
            (index, adapter.matrices[name])
            for index, adapter in enumerate(adapters)
            if name in adapter.matrices
        ]
        ranks = [matrix.rank for _, matrix in found]
        kinds = np.repeat([index for index, _ in found], ranks)
        parts = {
            "a": np.concatenate([matrix.a * np.float32(matrix.scale) for _, matrix in found]),
            "b": np.concatenate([matrix.b for _, matrix in found], axis=1),
            "owner": np.eye(len(adapters), dtype=np.float32)[kinds],
        }
        for part, values in parts.items():
            key = f"{name.removesuffix('.weight')}.adapters.{part}"
            made[key] = Tensor(np.ascontiguousarray(values)).realize()
    return made
