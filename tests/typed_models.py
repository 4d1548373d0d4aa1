"""Llamas with random weights of any of GGUF's types."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import small_models
from numpy.typing import NDArray

from edgellm import gguf, quant
from edgellm.tensor import MappedTensor

TYPES = (
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
    "Q6_K", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0",
)  # fmt: skip
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
MINIMA = {
    "Q4_1": ("m", -7.5),
    "Q5_1": ("m", -15.5),
    "Q2_K": ("dmin", 1.5),
    "Q4_K": ("dmin", 7.5),
    "Q5_K": ("dmin", 15.5),
}
"""What the minimum is, in scales, for values with a mean of 0."""


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


def random_matrix(name: str, shape: tuple[int, int], kind: str) -> MappedTensor:
    """Random values; products with them are about as large as their input."""
    rng = np.random.default_rng(list(name.encode()))
    deviation = 1 / math.sqrt(shape[1])
    if kind in ("F32", "F16", "BF16"):
        data = floats(kind, rng.normal(0, deviation, shape).astype(np.float32))
    else:  # random bits, but for the scales
        data = rng.integers(0, 256, quant.TYPES[kind].nbytes(shape), dtype=np.uint8)
        blocks = data.view(quant.TYPES[kind].dtype)
        scales = rng.uniform(0.7, 1.3, len(blocks)) * rng.choice([-1, 1], len(blocks))
        set_scales(kind, blocks, scales)
        found = quant.dequantise(kind, data.data, shape).std()
        set_scales(kind, blocks, scales * (deviation / found))
    return MappedTensor(name, shape, kind, data.data)


def floats(kind: str, values: NDArray[np.float32]) -> NDArray[np.uint8]:
    if kind == "BF16":
        return (values.view(np.uint32) >> 16).astype("<u2").reshape(-1).view(np.uint8)
    return quant.quantise(kind, values)


def set_scales(kind: str, blocks: quant.Blocks, scales: NDArray[np.float64]) -> None:
    blocks["d"] = scales
    if kind in MINIMA:
        field, size = MINIMA[kind]
        blocks[field] = scales * size
