"""The Transformer in plain NumPy: what backends are compared with.

Whole sequences in float64, with no memory of keys and values, so that it shares nothing with what
it judges but the position tables. Shapes as in `edgellm.model`: T tokens, D model width, H heads, K
key-value heads, C channels a head, F feed-forward width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgellm.checkpoint import Checkpoint
from edgellm.config import Layer
from edgellm.rope import alibi_slopes, rope_table

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Mistake:
    """A way to compute it wrongly, by which a wrong result may be explained."""

    learned_shift: int = 0
    """Learned positions are taken from so many rows later."""
    query_shift: int = 0
    """Queries are rotated, or biased, as if they stood so many positions later than they do."""
    sight: int = 0
    """How many positions beyond its own a token attends to; negative: short of its own."""
    rope: Literal["right", "other style", "backwards", "none"] = "right"
    windows: bool = True
    """Whether sliding windows are observed."""


RIGHT = Mistake()


class Forward:
    """One model's forward pass."""

    def __init__(self, checkpoint: Checkpoint, context: int, mistake: Mistake = RIGHT) -> None:
        """`context` is what the model is run with, which decides on longrope's factors."""
        self.config, self.context, self.mistake = checkpoint.config, context, mistake
        self.weights: dict[str, Array] = {
            name: tensor.float32().astype(np.float64) for name, tensor in checkpoint.tensors.items()
        }
        self.ropes = [
            rope_table(rope, context, context + 2).astype(np.float64) for rope in self.config.ropes
        ]

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Scores of every token after each of `tokens`, (T, vocab)."""
        config, top = self.config, self.weights
        x = top["token_embd.weight"][list(tokens)] * config.embed_scale  # (T, D)
        if config.position == "learned":
            begin = self.mistake.learned_shift
            x = x + top["position_embd.weight"][begin : begin + len(tokens)]
        for index, layer in enumerate(config.layers):
            x = self._layer(self._block(index), layer, x)
        x = self._norm(x, top, "token_embd_norm" if config.conv_taps else "output_norm")
        scores = x @ top.get("output.weight", top["token_embd.weight"]).T / config.logit_scale
        scores = _softcap(scores + top.get("output.bias", 0.0), config.logit_softcap)
        return scores.astype(np.float32)

    def _block(self, index: int) -> dict[str, Array]:
        prefix = f"blk.{index}."
        return {n.removeprefix(prefix): w for n, w in self.weights.items() if n.startswith(prefix)}

    def _layer(self, block: Mapping[str, Array], layer: Layer, x: Array) -> Array:
        config = self.config
        normed = self._norm(x, block, "attn_norm")
        inner = self._norm(x, block, "attn_norm_2") if "attn_norm_2.weight" in block else normed
        mix = self._attention if layer.kind == "attention" else self._convolution
        mixed = self._norm(mix(block, layer, inner), block, "post_attention_norm")
        mixed = mixed * config.residual_scale
        if config.parallel:
            shared = self._norm(x, block, "ffn_norm") if "ffn_norm.weight" in block else normed
            return x + mixed + self._feed_forward(block, shared)
        x = x + mixed
        fed = self._feed_forward(block, self._norm(x, block, "ffn_norm"))
        return x + self._norm(fed, block, "post_ffw_norm") * config.residual_scale

    def _attention(self, block: Mapping[str, Array], layer: Layer, x: Array) -> Array:
        config, count = self.config, len(x)
        heads, keys, width = config.heads, layer.kv_heads, config.head_dim
        if "attn_qkv.weight" in block:
            ends = [heads * width, (heads + keys) * width]
            q, k, v = np.split(_affine(x, block, "attn_qkv"), ends, axis=-1)
        else:
            q, k, v = (_affine(x, block, f"attn_{part}") for part in "qkv")
        q = self._norm(q.reshape(count, heads, width), block, "attn_q_norm").swapaxes(0, 1)
        k = self._norm(k.reshape(count, keys, width), block, "attn_k_norm").swapaxes(0, 1)
        v = v.reshape(count, keys, width).swapaxes(0, 1)  # (K, T, C)
        q = self._rotate(q, layer, self.mistake.query_shift)  # (H, T, C)
        k = self._rotate(k, layer)
        k, v = (part.repeat(heads // keys, axis=0) for part in (k, v))

        scale = config.attn_scale or width**-0.5
        scores = _softcap(q @ k.swapaxes(1, 2) * scale, config.attn_softcap)  # (H, T, T)
        behind = np.subtract.outer(np.arange(count), np.arange(count))  # the key's distance
        if config.position == "alibi":
            away = behind + self.mistake.query_shift
            scores = scores - alibi_slopes(heads)[:, None, None] * away * scale
        hidden = behind < -self.mistake.sight
        if layer.window and self.mistake.windows:
            hidden |= behind >= layer.window
        scores = np.where(hidden, -1e30, scores)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        out = (shares / shares.sum(-1, keepdims=True)) @ v  # (H, T, C)
        out = out.swapaxes(0, 1).reshape(count, heads * width)
        return _affine(self._norm(out, block, "attn_sub_norm"), block, "attn_output")

    def _rotate(self, x: Array, layer: Layer, shift: int = 0) -> Array:
        if layer.rope is None or not self.ropes or self.mistake.rope == "none":
            return x
        places = (np.arange(x.shape[1]) + shift).clip(0)
        cos, sin = self.ropes[layer.rope][places].swapaxes(0, 1)  # (T, R/2)
        if self.mistake.rope == "backwards":
            sin = -sin
        size, out = 2 * cos.shape[1], x.copy()
        halves = (self.config.rope_style == "half") != (self.mistake.rope == "other style")
        first, second = slice(0, size, 2), slice(1, size, 2)
        if halves:
            first, second = slice(0, size // 2), slice(size // 2, size)
        a, b = x[..., first], x[..., second]
        out[..., first], out[..., second] = a * cos - b * sin, a * sin + b * cos
        return out

    def _convolution(self, block: Mapping[str, Array], layer: Layer, x: Array) -> Array:
        gate_in, gate_out, value = np.split(_affine(x, block, "shortconv.in_proj"), 3, axis=-1)
        kernel, taps = block["shortconv.conv.weight"], self.config.conv_taps
        past = np.pad(gate_in * value, ((taps - 1, 0), (0, 0)))
        mixed = sum(past[tap : tap + len(x)] * kernel[:, tap] for tap in range(taps))
        return _affine(gate_out * (mixed + block.get("shortconv.conv.bias", 0.0)), block,
                       "shortconv.out_proj")  # fmt: skip

    def _feed_forward(self, block: Mapping[str, Array], x: Array) -> Array:
        activate = ACTIVATIONS[self.config.activation]
        inner = _affine(x, block, "ffn_up")
        if "ffn_gate.weight" in block:
            inner = activate(_affine(x, block, "ffn_gate")) * inner
        elif inner.shape[-1] == 2 * block["ffn_down.weight"].shape[1]:
            gate, up = np.split(inner, 2, axis=-1)
            inner = activate(gate) * up
        else:
            inner = activate(inner)
        return _affine(self._norm(inner, block, "ffn_sub_norm"), block, "ffn_down")

    def _norm(self, x: Array, block: Mapping[str, Array], name: str) -> Array:
        weight = block.get(f"{name}.weight")
        if weight is None:
            return x
        if self.config.norm == "layer":
            x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + self.config.norm_eps) * weight
        return np.asarray(x + block.get(f"{name}.bias", 0.0))


def _affine(x: Array, block: Mapping[str, Array], name: str) -> Array:
    y = x @ block[f"{name}.weight"].T * block.get(f"{name}.scale", 1.0)
    return np.asarray(y + block.get(f"{name}.bias", 0.0))


def _softcap(x: Array, cap: float) -> Array:
    return np.tanh(x / cap) * cap if cap else x


def _gelu_tanh(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


_erf = np.vectorize(math.erf, otypes=[np.float64])

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: 0.5 * x * (1 + _erf(x * 2**-0.5)),
    "gelu_tanh": _gelu_tanh,
    "relu2": lambda x: np.maximum(x, 0) ** 2,
}
