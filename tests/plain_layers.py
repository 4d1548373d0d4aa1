"""The layers of a Llama, written out plainly."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgellm.config import Config

Array = NDArray[np.float64]
Weights = Mapping[str, Array]


def normed(config: Config, x: Array) -> Array:
    found: Array = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + config.norm_eps)
    return found


def turned(config: Config, x: Array) -> Array:
    """With rotary positions, in pairs."""
    pairs = np.arange(config.head_dim // 2)
    angles = np.arange(len(x))[:, None] * config.ropes[0].theta ** (-2 * pairs / config.head_dim)
    complex_pairs = (x[:, ::2] + 1j * x[:, 1::2]) * np.exp(1j * angles)
    out = np.empty_like(x)
    out[:, ::2], out[:, 1::2] = complex_pairs.real, complex_pairs.imag
    return out


def attention(config: Config, weights: Weights, x: Array, layer: int) -> tuple[list[Array], Array]:
    """Each head's shares (T, T), and the stream after all of them."""
    width, shared = config.head_dim, config.heads // config.layers[layer].kv_heads
    shares, added = [], np.zeros_like(x)
    n = normed(config, x) * weights[f"blk.{layer}.attn_norm.weight"]
    for head in range(config.heads):
        own = slice(head * width, (head + 1) * width)
        key = slice(head // shared * width, (head // shared + 1) * width)
        q, k = (
            turned(config, n @ weights[f"blk.{layer}.attn_{name}.weight"][rows].T)
            for name, rows in (("q", own), ("k", key))
        )
        scores = q @ k.T / np.sqrt(width)
        scores[np.triu_indices(len(x), 1)] = -np.inf
        share = np.exp(scores - scores.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        value = n @ weights[f"blk.{layer}.attn_v.weight"][key].T
        added += share @ value @ weights[f"blk.{layer}.attn_output.weight"][:, own].T
        shares.append(share)
    return shares, x + added


def feed_forward(config: Config, weights: Weights, x: Array, layer: int) -> Array:
    """The stream after the second half of a layer."""
    n = normed(config, x) * weights[f"blk.{layer}.ffn_norm.weight"]
    gate, up = (n @ weights[f"blk.{layer}.ffn_{name}.weight"].T for name in ("gate", "up"))
    added: Array = (gate / (1 + np.exp(-gate)) * up) @ weights[f"blk.{layer}.ffn_down.weight"].T
    return x + added
