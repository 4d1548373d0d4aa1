"""Llamas with random weights of any of GGUF's types."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import small_models
from numpy.typing import NDArray

from edgellm import gguf
from edgellm.conformance.models import TYPES, random_matrix
from edgellm.tensor import MappedTensor

__all__ = ["TYPES", "random_matrix", "write"]

DIM = 256
"""As narrow as the types with blocks of 256 values allow."""
KEYS = {
    "context_length": 128,
    "embedding_length": DIM,
    "feed_forward_length": 2 * DIM,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.dimension_count": DIM // 4,
    "rope.freq_base": 1e4,
}


def write(path: Path, kinds: Sequence[str], layers: int = 2) -> None:
    """A GGUF file of a llama whose matrices have these types in turn."""
    key, types = DIM // 2, cycle(kinds)
    matrices = {
        "attn_q": (DIM, DIM),
        "attn_k": (key, DIM),
        "attn_v": (key, DIM),
        "attn_output": (DIM, DIM),
        "ffn_gate": (2 * DIM, DIM),
        "ffn_up": (2 * DIM, DIM),
        "ffn_down": (DIM, 2 * DIM),
    }
    metadata = {"general.architecture": "llama", "llama.block_count": layers}
    metadata |= {f"llama.{name}": value for name, value in KEYS.items()}
    metadata |= small_models.vocabulary(spm=True)
    shapes = {"token_embd": (len(small_models.spm_tokens()), DIM)}
    shapes["output"] = shapes["token_embd"]
    norms = ["output_norm"]
    for block in (f"blk.{index}." for index in range(layers)):
        shapes |= {block + name: shape for name, shape in matrices.items()}
        norms += [block + "attn_norm", block + "ffn_norm"]
    tensors: dict[str, MappedTensor | NDArray[np.float32]] = {
        f"{name}.weight": random_matrix(f"{name}.weight", shape, next(types))
        for name, shape in shapes.items()
    }
    rng = np.random.default_rng(0)
    tensors |= {f"{name}.weight": rng.normal(1, 0.1, DIM).astype(np.float32) for name in norms}
    gguf.write(path, metadata, tensors)
