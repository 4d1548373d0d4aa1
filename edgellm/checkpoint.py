"""A model file opened: configuration, tensors, vocabulary, chat template and provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgellm.config import Config
    from edgellm.tokenizer import TokenizerData


class StoredTensor(Protocol):
    """A tensor in a file, read only when asked."""

    @property
    def name(self) -> str:
        """GGUF's name (`blk.0.attn_q.weight`), whatever the file calls it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Row-major: (out, in) for a matrix. GGUF lists dimensions the other way round."""

    @property
    def type(self) -> str:
        """ "F32", "BF16", "Q4_K", …"""

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""

    def float32(self) -> NDArray[np.float32]:
        """The exactly dequantised values, of `shape`."""


@dataclass(frozen=True)
class Provenance:
    """Where a model says it comes from; empty strings where it doesn't."""

    name: str = ""
    licence: str = ""
    source: str = ""
    author: str = ""


@dataclass(frozen=True)
class Checkpoint:
    path: str
    format: str
    """"gguf" or "safetensors"."""
    config: Config
    tensors: Mapping[str, StoredTensor]
    tokenizer: TokenizerData | None
    template: str | None
    """Jinja source of the chat template."""
    provenance: Provenance
    metadata: Mapping[str, object]
    """The file's own keys, for `edgellm info`."""
