"""The Transformer in NumPy, every family in one definition: replace what should be faster.

Config says what tensors can't; which tensors there are says the rest. Shapes: T tokens, L positions
attended to, D model width, H heads, K key-value heads, G = H/K, C channels a head, F feed-forward
width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgellm.config import Config, Layer
from edgellm.rope import alibi_slopes, rope_table

Array = NDArray[np.float32]


class Transformer:
    """One model's weights, named as in GGUF. `past` is what each layer remembers of one slot, as
    `edgellm.config.rows_shape` has it without its slots: (2K, positions, C), keys before values, or
    (1, positions, D) of a convolution."""

    def __init__(self, config: Config, weights: Mapping[str, Array], context: int) -> None:
        self.config, self.top = config, weights
        self.blocks: list[dict[str, Array]] = [{} for _ in config.layers]
        for name, weight in weights.items():
            if name.startswith("blk."):
                _, index, part = name.split(".", 2)
                self.blocks[int(index)][part] = weight
        self.ropes = [rope_table(rope, context, context) for rope in config.ropes]
        self.slopes = alibi_slopes(config.heads)

    def hidden(self, tokens: Sequence[int], past: Sequence[Array], start: int) -> Array:
        """The last layer's output (T, D) for tokens at `start` and on, which enter the past."""
        x: Array = self.top["token_embd.weight"][list(tokens)] * np.float32(self.config.embed_scale)
        if self.config.position == "learned":
            x = x + self.top["position_embd.weight"][start : start + len(tokens)]
        for block, layer, rows in zip(self.blocks, self.config.layers, past, strict=True):
            x = self.layer(block, layer, x, rows, start)
        return x

    def logits(self, hidden: Array) -> Array:
        """Scores of every token (V,) after one row (D,) of the last layer's output."""
        name = "output_norm" if "output_norm.weight" in self.top else "token_embd_norm"
        weight = self.top.get("output.weight", self.top["token_embd.weight"])
        scores = linear(self.norm(hidden, self.top, name), weight) / self.config.logit_scale
        if "output.bias" in self.top:
            scores = scores + self.top["output.bias"]
        return softcap(scores, self.config.logit_softcap)

    def layer(
        self, block: Mapping[str, Array], layer: Layer, x: Array, past: Array, start: int
    ) -> Array:
        """One layer, (T, D) to (T, D)."""
        normed = self.norm(x, block, "attn_norm")
        inner = self.norm(x, block, "attn_norm_2") if "attn_norm_2.weight" in block else normed
        mix = self.attention if layer.kind == "attention" else self.convolution
        mixed = self.norm(mix(block, layer, inner, past, start), block, "post_attention_norm")
        mixed = mixed * self.config.residual_scale
        if self.config.parallel:
            shared = self.norm(x, block, "ffn_norm") if "ffn_norm.weight" in block else normed
            return x + mixed + self.feed_forward(block, shared)
        x = x + mixed
        fed = self.norm(self.feed_forward(block, self.norm(x, block, "ffn_norm")), block,
                        "post_ffw_norm")  # fmt: skip
        return x + fed * self.config.residual_scale

    def attention(
        self, block: Mapping[str, Array], layer: Layer, x: Array, past: Array, start: int
    ) -> Array:
        config, count, end = self.config, len(x), start + len(x)
        heads, keys, width = config.heads, layer.kv_heads, config.head_dim
        if "attn_qkv.weight" in block:
            ends = [heads * width, (heads + keys) * width]
            q, k, v = np.split(affine(x, block, "attn_qkv"), ends, axis=-1)
        else:
            q, k, v = (affine(x, block, f"attn_{part}") for part in "qkv")
        q = self.norm(q.reshape(count, heads, width), block, "attn_q_norm")  # (T, H, C)
        k = self.norm(k.reshape(count, keys, width), block, "attn_k_norm")  # (T, K, C)
        past[:keys, start:end] = self.rotate(k.swapaxes(0, 1), layer, start)
        past[keys:, start:end] = v.reshape(count, keys, width).swapaxes(0, 1)
        k, v = past[:keys, None, :end], past[keys:, None, :end]  # (K, 1, L, C)

        q = self.rotate(q.swapaxes(0, 1), layer, start).reshape(keys, -1, count, width)
        scale = config.attn_scale or width**-0.5
        scores = softcap(q @ k.swapaxes(-1, -2) * scale, config.attn_softcap)  # (K, G, T, L)
        behind = np.arange(start, end)[:, None] - np.arange(end)  # (T, L): how far keys lie back
        if config.position == "alibi":
            away = behind.astype(np.float32) * np.float32(scale)
            scores = scores - self.slopes.reshape(keys, -1, 1, 1) * away
        seen = behind >= 0
        if layer.window:
            seen &= behind < layer.window
        scores = np.where(seen, scores, np.float32(-np.inf))
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        out = (shares @ v).reshape(heads, count, width).swapaxes(0, 1).reshape(count, -1)
        return affine(self.norm(out, block, "attn_sub_norm"), block, "attn_output")

    def rotate(self, x: Array, layer: Layer, start: int) -> Array:
        """Rotary positions on the leading channels of x (heads, T, C)."""
        if layer.rope is None or not self.ropes:
            return x
        cos, sin = self.ropes[layer.rope][start : start + x.shape[1]].swapaxes(0, 1)  # (T, R/2)
        size, out = 2 * cos.shape[1], x.copy()
        first, second = slice(0, size, 2), slice(1, size, 2)
        if self.config.rope_style == "half":
            first, second = slice(0, size // 2), slice(size // 2, size)
        a, b = x[..., first], x[..., second]
        out[..., first], out[..., second] = a * cos - b * sin, a * sin + b * cos
        return out

    def convolution(
        self, block: Mapping[str, Array], layer: Layer, x: Array, past: Array, start: int
    ) -> Array:
        """LFM2's gated short convolution, causal, one filter a channel."""
        gate_in, gate_out, value = np.split(affine(x, block, "shortconv.in_proj"), 3, axis=-1)
        past[0, start : start + len(x)] = gate_in * value
        kernel, mixed = block["shortconv.conv.weight"], np.zeros_like(x)
        taps = self.config.conv_taps
        padded = np.concatenate([np.zeros((taps - 1, x.shape[1]), np.float32), past[0]])
        for tap in range(taps):
            mixed += padded[start + tap : start + tap + len(x)] * kernel[:, tap]
        if "shortconv.conv.bias" in block:
            mixed += block["shortconv.conv.bias"]
        return affine(gate_out * mixed, block, "shortconv.out_proj")

    def feed_forward(self, block: Mapping[str, Array], x: Array) -> Array:
        inner = affine(x, block, "ffn_up")  # (T, F), or (T, 2F), the gate fused
        if "ffn_gate.weight" in block:
            inner = self.activate(affine(x, block, "ffn_gate")) * inner
        elif inner.shape[-1] == 2 * block["ffn_down.weight"].shape[1]:
            gate, up = np.split(inner, 2, axis=-1)
            inner = self.activate(gate) * up
        else:
            inner = self.activate(inner)
        return affine(self.norm(inner, block, "ffn_sub_norm"), block, "ffn_down")

    def norm(self, x: Array, block: Mapping[str, Array], name: str) -> Array:
        """x scaled to unit root mean square (or variance) over its last axis; x if no such norm."""
        weight = block.get(f"{name}.weight")
        if weight is None:
            return x
        if self.config.norm == "layer":
            x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(self.config.norm_eps)) * weight
        return x + block[f"{name}.bias"] if f"{name}.bias" in block else x

    def activate(self, x: Array) -> Array:
        match self.config.activation:
            case "silu":
                return np.asarray(x / (1 + np.exp(-x)))
            case "gelu":
                return np.asarray(x * (0.5 + 0.5 * erf(x * np.float32(2**-0.5))))
            case "gelu_tanh":
                bent = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
                return np.asarray(0.5 * x * (1 + np.tanh(bent)))
            case "relu2":
                return np.asarray(np.square(np.maximum(x, 0)))


erf = np.vectorize(math.erf, otypes=[np.float32])


def linear(x: Array, weight: Array) -> Array:
    """x (..., in) times weight (out, in): where nearly all the time goes."""
    return np.asarray(x @ weight.T, np.float32)


def affine(x: Array, block: Mapping[str, Array], name: str) -> Array:
    """x through the named matrix, with its factor and its bias if it has them."""
    y = linear(x, block[f"{name}.weight"])
    if f"{name}.scale" in block:
        y = y * block[f"{name}.scale"]
    return y + block[f"{name}.bias"] if f"{name}.bias" in block else y


def softcap(x: Array, cap: float) -> Array:
    return np.asarray(np.tanh(x / cap) * cap if cap else x, np.float32)
