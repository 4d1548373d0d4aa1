"""A model before its training: a configuration and first weights, drawn from a seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgellm.config import Config, Layer, Rope

Weights = dict[str, NDArray[np.float32]]


def llama(
    vocab: int,
    dim: int,
    layers: int,
    heads: int,
    kv_heads: int,
    hidden: int,
    context: int,
    theta: float = 10_000.0,
) -> Config:
    """A Llama's configuration; `theta` is the base of its rotary positions."""
    width = dim // heads
    return Config(
        architecture="llama",
        vocab=vocab,
        dim=dim,
        heads=heads,
        head_dim=width,
        hidden=hidden,
        context=context,
        layers=tuple(Layer(kv_heads=kv_heads) for _ in range(layers)),
        ropes=(Rope(width, theta=theta),),
        rope_style="pair",
    )


def initial_weights(config: Config, seed: int) -> Weights:
    """Normal weights of deviation 0.02, those that add to the residual stream scaled down by the
    number of additions (Radford et al. 2019, section 2.3); norms of one."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 1.0) -> NDArray[np.float32]:
        return (rng.standard_normal(shape) * 0.02 * scale).astype(np.float32)

    dim, queries = config.dim, config.heads * config.head_dim
    added = (2 * len(config.layers)) ** -0.5
    weights = {"token_embd.weight": normal(config.vocab, dim)}
    for index, layer in enumerate(config.layers):
        keys = layer.kv_heads * config.head_dim
        weights |= {
            f"blk.{index}.{name}.weight": values
            for name, values in {
                "attn_norm": np.ones(dim, np.float32),
                "attn_q": normal(queries, dim),
                "attn_k": normal(keys, dim),
                "attn_v": normal(keys, dim),
                "attn_output": normal(dim, queries, scale=added),
                "ffn_norm": np.ones(dim, np.float32),
                "ffn_gate": normal(config.hidden, dim),
                "ffn_up": normal(config.hidden, dim),
                "ffn_down": normal(dim, config.hidden, scale=added),
            }.items()
        }
    return weights | {"output_norm.weight": np.ones(dim, np.float32)}
