"""Config: everything about a model that its forward pass needs to know, whatever its file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Yarn:
    """YaRN's frequency blending (Peng et al. 2023, arXiv:2309.00071, section 3.2)."""

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True)
class Rope:
    """One table of rotary positions (Su et al. 2021, arXiv:2104.09864).

    Frequency i of dim/2 is theta**(-2i/dim) / factors[i] / scale, blended by `yarn` if given; cos
    and sin are multiplied by `magnitude`.
    """

    dim: int
    """Leading channels of each head that are rotated; the others pass through."""
    theta: float = 10000.0
    factors: tuple[float, ...] = ()
    """dim/2 divisors (Llama-3's scaling, or longrope's short table); empty: none."""
    long_factors: tuple[float, ...] = ()
    """longrope's table for contexts beyond `original_context`; empty: none."""
    original_context: int = 0
    scale: float = 1.0
    yarn: Yarn | None = None
    magnitude: float = 1.0


@dataclass(frozen=True)
class Layer:
    """What differs between the layers of one model."""

    kind: Literal["attention", "conv"] = "attention"
    kv_heads: int = 0
    window: int = 0
    """Positions that attention looks back over, itself included; 0: all."""
    rope: int | None = 0
    """Index into Config.ropes; None: this layer carries no positions."""


@dataclass(frozen=True)
class Config:
    """The switches of the one Transformer. Biases, gates, fused and extra norms aren't here: the
    presence of their tensors says so."""

    architecture: str
    vocab: int
    dim: int
    heads: int
    head_dim: int
    hidden: int
    """Width of the feed-forward block."""
    context: int
    """Positions the model was trained for."""
    layers: tuple[Layer, ...]
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-5
    position: Literal["rope", "learned", "alibi", "none"] = "rope"
    rope_style: Literal["half", "pair"] = "half"
    """Channels rotated together: i with i+dim/2, or 2i with 2i+1."""
    ropes: tuple[Rope, ...] = ()
    parallel: bool = False
    """Attention and feed-forward both read the block's input and are added to it together."""
    activation: Literal["silu", "gelu", "gelu_tanh", "relu2"] = "silu"
    attn_scale: float = 0.0
    """Multiplies q·k; 0 means head_dim**-0.5."""
    attn_softcap: float = 0.0
    logit_softcap: float = 0.0
    embed_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    """Divides the logits."""
    conv_taps: int = 0
    """Length of the short convolution of "conv" layers."""


def rows_shape(
    config: Config, layer: Layer, positions: int, slots: int
) -> tuple[int, int, int, int]:
    """Of what one layer remembers of its past: (slots, 2K, positions, C), keys before values, or
    (slots, 1, positions, D), the inputs of a convolution."""
    if layer.kind == "conv":
        return slots, 1, positions, config.dim
    return slots, 2 * layer.kv_heads, positions, config.head_dim
