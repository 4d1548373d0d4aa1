"""Importances: how strongly each input of a model's matrices is used in a text ("imatrix").

They are the mean squares of what the matrices get, as llama.cpp's `imatrix` computes them. Rounding
errors of columns with large inputs show most in the outputs, so quantising weighs them more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tinygrad import Tensor, TinyJit

from edgellm import layout, perplexity
from edgellm.model import Transformer

if TYPE_CHECKING:
    from edgellm.checkpoint import Checkpoint
    from edgellm.config import Config
    from edgellm.executor import Progress
    from edgellm.tokenizer import Tokenizer


class _Listening(Transformer):
    """Keeps the sum of the squares of each matrix's inputs."""

    def __init__(self, config: Config, weights: Mapping[str, Tensor], context: int) -> None:
        self.names = {id(weight): name for name, weight in weights.items()}
        self.heard: dict[str, Tensor] = {}
        super().__init__(config, weights, context)

    def products(self, x: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
        x = x.contiguous()
        squares = x.square().sum(axis=tuple(range(x.ndim - 1)))
        self.heard |= {self.names[id(weight)]: squares for weight in weights}
        return super().products(x, weights)


def measure(
    checkpoint: Checkpoint, tokenizer: Tokenizer, text: str, progress: Progress | None = None
) -> dict[str, NDArray[np.float32]]:
    """A weight for each column of each matrix but the output's, by the matrices' names.

    Computes in float32, on tinygrad's device, with all weights in memory. Raises UsageError for a
    text of hardly any tokens.
    """
    pieces = perplexity.windows(tokenizer, text, min(perplexity.WINDOW, checkpoint.config.context))
    weights = {
        name: Tensor(np.atleast_1d(tensor.float32()))
        for name, tensor in checkpoint.tensors.items()
        if name not in layout.TABLES
    }
    transformer = _Listening(checkpoint.config, weights, len(pieces[0]))
    names: list[str] = []

    def listen(tokens: Tensor) -> tuple[Tensor, ...]:
        transformer.heard.clear()
        transformer.hidden(tokens).realize()
        names[:] = transformer.heard
        return tuple(heard.realize() for heard in transformer.heard.values())

    step, total = TinyJit(listen), dict[str, NDArray[np.float64]]()
    for number, piece in enumerate(pieces):
        squares = step(Tensor([piece]))
        for name, heard in zip(names, squares, strict=True):
            total[name] = total.get(name, 0) + heard.numpy().astype(np.float64)
        if progress is not None:
            progress("listening", number + 1, len(pieces))
    count = len(pieces) * len(pieces[0])
    return {name: (heard / count).astype(np.float32) for name, heard in total.items()}
