"""A toy model that says what a test has written down, as far as the grammar lets it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from toy_executor import EOS, TURN, VOCAB, ToyExecutor


def chat(messages: Sequence[Any]) -> str:
    """A chat format for `toy_executor.ToyTokenizer`."""
    return "".join(f"<turn>{m['role'][0]}{m['content']}<eos>" for m in messages) + "<turn>a"


class Speaker(ToyExecutor):
    """Its n-th answer in a conversation of the format `chat` is the n-th of `says`; each letter is
    far likelier than the toy's other choices, which are made where it's forbidden or at an end."""

    def __init__(self, *says: str, context: int = 512, **options: Any) -> None:
        super().__init__(context=context, **options)
        self.says = [[*said.encode(), EOS] for said in says]

    def _logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        logits = super()._logits(tokens)
        begins = np.flatnonzero((tokens[:-1] == TURN) & (tokens[1:] == ord("a"))) + 2
        said = self.says[min(len(begins), len(self.says)) - 1]
        done = len(tokens) - int(begins[-1])
        logits[said[done] if done < len(said) else EOS] += 1000
        assert len(logits) == VOCAB
        return logits
