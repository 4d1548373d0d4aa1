"""Small models with random weights from fixed seeds, one for every switch of the Transformer."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgellm import layout, quant
from edgellm.checkpoint import Checkpoint, Provenance, StoredTensor
from edgellm.config import Config, Layer, Rope, Yarn
from edgellm.tensor import MappedTensor
from edgellm.tokenizer import TokenizerData

CONTEXT = 64
VOCAB = 259
"""Three special tokens and one for each byte; no multiple of what kernels like."""
SHARPNESS = 3.0
"""Queries and keys are so much larger than is usual: attention then tells positions apart."""

FLOATS = ("F32", "F16", "BF16")
TYPES = (
    *FLOATS, "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0",
)  # fmt: skip
WIDE = 512
"""The width of models in quantised types: their blocks have up to 256 values, and models of up to
`edgellm.packing.SMALL` weights would be packed in floats."""
MINIMA = {
    "Q4_1": ("m", -7.5),
    "Q5_1": ("m", -15.5),
    "Q2_K": ("dmin", 1.5),
    "Q4_K": ("dmin", 7.5),
    "Q5_K": ("dmin", 15.5),
}
"""What the minimum is, in scales, for values with a mean of 0."""


@dataclass(frozen=True)
class Shape:
    """What tells one family from another."""

    config: dict[str, Any] = field(default_factory=dict)
    """Fields of Config that differ from those of a plain Llama."""
    layers: tuple[Layer, ...] = (Layer(kv_heads=2),) * 2
    parts: frozenset[str] = frozenset({"gate", "ffn_norm"})
    """Of its blocks."""


def _parts(text: str) -> frozenset[str]:
    return frozenset(text.split())


ROPE = (Rope(dim=8),)
LLAMA3 = Rope(dim=8, theta=500.0, factors=(1.0, 1.5, 4.0, 8.0))
LONGROPE = Rope(
    dim=6, factors=(1.0, 1.2, 1.5), long_factors=(1.0, 2.0, 4.0), original_context=32, magnitude=1.1
)
LAYER_NORM: dict[str, Any] = {"norm": "layer", "activation": "gelu"}

FAMILIES: dict[str, Shape] = {
    "llama": Shape({"rope_style": "pair"}),
    "llama3": Shape({"ropes": (LLAMA3,)}, parts=_parts("gate ffn_norm tied")),
    "mistral": Shape(layers=(Layer(kv_heads=1, window=6),) * 2),
    "gpt2": Shape(
        {**LAYER_NORM, "activation": "gelu_tanh", "position": "learned", "ropes": ()},
        (Layer(kv_heads=4, rope=None),) * 2,
        _parts("ffn_norm fused bias ffn_bias norm_bias tied"),
    ),
    "gptj": Shape(
        {**LAYER_NORM, "parallel": True, "rope_style": "pair", "ropes": (Rope(dim=4),)},
        (Layer(kv_heads=4),) * 2,
        _parts("ffn_bias norm_bias output_bias"),
    ),
    "gpt_neox": Shape(
        {**LAYER_NORM, "parallel": True, "ropes": (Rope(dim=2),)},
        (Layer(kv_heads=4),) * 2,
        _parts("ffn_norm fused bias ffn_bias norm_bias"),
    ),
    "falcon": Shape(
        {**LAYER_NORM, "parallel": True},
        parts=_parts("attn_norm_2 fused norm_bias tied"),
    ),
    "falcon_rw": Shape(
        {**LAYER_NORM, "position": "alibi", "ropes": ()},
        (Layer(kv_heads=4, rope=None),) * 2,
        _parts("ffn_norm fused bias ffn_bias norm_bias tied"),
    ),
    "stablelm": Shape(
        {"norm": "layer", "ropes": (Rope(dim=2),)},
        parts=_parts("gate ffn_norm norm_bias qk_norms"),
    ),
    "qwen2": Shape(
        {"ropes": (Rope(dim=8, theta=1e6, yarn=Yarn(4.0, 16), magnitude=1.14),)},
        parts=_parts("gate ffn_norm qkv_bias tied"),
    ),
    "qwen3": Shape(
        {"head_dim": 12, "ropes": (Rope(dim=12, theta=1e6),)},
        parts=_parts("gate ffn_norm qk_norm"),
    ),
    "gemma2": Shape(
        {
            "activation": "gelu_tanh",
            "attn_softcap": 5.0,
            "logit_softcap": 6.0,
            "embed_scale": 32**0.5,
            "attn_scale": 0.25,
        },
        (Layer(kv_heads=2, window=6), Layer(kv_heads=2)),
        _parts("gate ffn_norm post_norms tied"),
    ),
    "gemma3": Shape(
        {"activation": "gelu_tanh", "embed_scale": 32**0.5, "ropes": (*ROPE, Rope(8, 1e6))},
        (Layer(kv_heads=1, window=6), Layer(kv_heads=1, window=6), Layer(kv_heads=1, rope=1)),
        _parts("gate ffn_norm post_norms qk_norm tied"),
    ),
    "phi3": Shape({"ropes": (LONGROPE,)}, parts=_parts("fused fused_gate ffn_norm")),
    "granite": Shape(
        {"embed_scale": 3.0, "logit_scale": 4.0, "residual_scale": 0.4, "attn_scale": 0.25},
        parts=_parts("gate ffn_norm tied"),
    ),
    "smollm3": Shape(layers=(Layer(kv_heads=2), Layer(kv_heads=2, rope=None))),
    "lfm2": Shape(
        {"conv_taps": 3},
        (Layer("conv"), Layer(kv_heads=2)),
        _parts("gate ffn_norm qk_norm tied"),
    ),
    "bitnet": Shape({"activation": "relu2"}, parts=_parts("gate ffn_norm sub_norms scale tied")),
}
"""Together they have every switch of `edgellm.config.Config` and every tensor of the layout."""


def family(name: str) -> Checkpoint:
    """A model of one family, in float16."""
    shape = FAMILIES[name]
    given: dict[str, Any] = {
        "architecture": name,
        "vocab": VOCAB,
        "dim": 32,
        "heads": 4,
        "head_dim": 8,
        "hidden": 48,
        "context": CONTEXT,
        "ropes": ROPE,
        **shape.config,
    }
    config = Config(layers=shape.layers, **given)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    tensors = {}
    for tensor, size in _sizes(config, shape.parts).items():
        values = _values(rng, tensor, size)
        kind = "F16" if len(size) == 2 else "F32"
        data = quant.quantise(kind, np.atleast_1d(values)).data
        tensors[tensor] = MappedTensor(tensor, size, kind, data)
    return _checkpoint(name, config, tensors)


def typed(kinds: Sequence[str]) -> Checkpoint:
    """A Llama wide enough for integer kernels, its matrices of these types in turn."""
    config = Config(
        "llama", VOCAB, WIDE, 8, WIDE // 8, 2 * WIDE, CONTEXT, (Layer(kv_heads=4),) * 2,
        ropes=(Rope(dim=WIDE // 8),),
    )  # fmt: skip
    types, tensors = cycle(kinds), {}
    for name, size in _sizes(config, _parts("gate ffn_norm")).items():
        if len(size) == 2:
            tensors[name] = random_matrix(name, size, next(types))
        else:
            values = _values(np.random.default_rng(1), name, size)
            tensors[name] = MappedTensor(name, size, "F32", quant.quantise("F32", values).data)
    return _checkpoint("-".join(kinds), config, tensors)


def _sizes(config: Config, parts: frozenset[str]) -> dict[str, tuple[int, ...]]:
    """The tensors of a model with these parts, in the layout's shapes."""
    allowed = layout.shapes(config)
    sizes = {"token_embd.weight": allowed["token_embd.weight"]}
    if config.position == "learned":
        sizes["position_embd.weight"] = allowed["position_embd.weight"]
    for index, layer in enumerate(config.layers):
        names = ["attn_norm.weight", "ffn_up.weight", "ffn_down.weight"]
        names += _mixing(layer, parts)
        names += [f"{norm}.weight" for norm in ("ffn_norm", "attn_norm_2") if norm in parts]
        if "gate" in parts:
            names.append("ffn_gate.weight")
        if "post_norms" in parts:
            names += ["post_attention_norm.weight", "post_ffw_norm.weight"]
        if "sub_norms" in parts:
            names += ["ffn_sub_norm.weight"]
        if "norm_bias" in parts:
            names += [name[:-6] + "bias" for name in names if name.endswith("norm.weight")]
        if "ffn_bias" in parts:
            names += ["ffn_up.bias", "ffn_down.bias"]
        if "scale" in parts:
            names += ["ffn_up.scale", "ffn_down.scale"]
        sizes |= {f"blk.{index}.{name}": allowed[f"blk.{index}.{name}"] for name in names}
        if "fused_gate" in parts:
            sizes[f"blk.{index}.ffn_up.weight"] = (2 * config.hidden, config.dim)
        if "qk_norm" in parts and layer.kind == "attention":
            for part in "qk":
                sizes[f"blk.{index}.attn_{part}_norm.weight"] = (config.head_dim,)
    names = ["token_embd_norm" if config.conv_taps else "output_norm"]
    sizes |= {f"{name}.weight": allowed[f"{name}.weight"] for name in names}
    if "norm_bias" in parts:
        sizes["output_norm.bias"] = allowed["output_norm.bias"]
    if "tied" not in parts:
        sizes["output.weight"] = allowed["output.weight"]
    if "output_bias" in parts:
        sizes["output.bias"] = allowed["output.bias"]
    return sizes


def _mixing(layer: Layer, parts: frozenset[str]) -> list[str]:
    """The tensors of a layer's attention, or of its convolution."""
    if layer.kind == "conv":
        return [f"shortconv.{part}.weight" for part in ("in_proj", "conv", "out_proj")]
    matrices = ["attn_qkv"] if "fused" in parts else ["attn_q", "attn_k", "attn_v"]
    names = [f"{name}.weight" for name in (*matrices, "attn_output")]
    if parts & {"bias", "qkv_bias"}:
        names += [f"{name}.bias" for name in matrices]
    if "bias" in parts:
        names.append("attn_output.bias")
    if "scale" in parts:
        names += [f"{name}.scale" for name in (*matrices, "attn_output")]
    if parts & {"qk_norm", "qk_norms"}:
        names += ["attn_q_norm.weight", "attn_k_norm.weight"]
    if "sub_norms" in parts:
        names.append("attn_sub_norm.weight")
    return names


def _values(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if name.endswith(("norm.weight", "norm_2.weight")):
        values = rng.normal(1, 0.2, shape)
    elif name.endswith(".scale"):
        values = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 2 and not name.endswith("embd.weight"):
        values = rng.normal(0, _gain(name) / math.sqrt(shape[1]), shape)
    else:
        values = rng.normal(0, 1 if name.endswith("embd.weight") else 0.3, shape)
    return values.astype(np.float32)


def _gain(name: str) -> float:
    return SHARPNESS if any(part in name for part in ("attn_q.", "attn_k.", "attn_qkv.")) else 1.0


def _checkpoint(name: str, config: Config, tensors: Mapping[str, StoredTensor]) -> Checkpoint:
    layout.check(name, config, tensors)
    return Checkpoint(
        path=name,
        tokenizer=vocabulary(),
        template=None,
        provenance=Provenance(name=name),
        format="gguf",
        config=config,
        tensors=tensors,
    )


def vocabulary() -> TokenizerData:
    """A token a byte."""
    special = ("<unk>", "<s>", "</s>")
    return TokenizerData(
        "llama",
        tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))],
        scores=[0.0] * VOCAB,
        types=[2, 3, 3, *[6] * 256],
        bos=1,
        eos=2,
        unk=0,
    )


def random_matrix(name: str, shape: tuple[int, ...], kind: str) -> MappedTensor:
    """Random values of any of GGUF's types; products with them are about as large as their
    input."""
    rng = np.random.default_rng(list(name.encode()))
    deviation = 1 / math.sqrt(shape[1])
    if kind in FLOATS:
        data = _floats(kind, rng.normal(0, deviation, shape).astype(np.float32))
    else:  # random bits, but for the scales
        data = rng.integers(0, 256, quant.TYPES[kind].nbytes(shape), dtype=np.uint8)
        blocks = data.view(quant.TYPES[kind].dtype)
        scales = rng.uniform(0.7, 1.3, len(blocks)) * rng.choice([-1, 1], len(blocks))
        _set_scales(kind, blocks, scales)
        found = quant.dequantise(kind, data.data, shape).std()
        _set_scales(kind, blocks, scales * (deviation / found))
    return MappedTensor(name, shape, kind, data.data)


def _floats(kind: str, values: NDArray[np.float32]) -> NDArray[np.uint8]:
    if kind == "BF16":
        return (values.view(np.uint32) >> 16).astype("<u2").reshape(-1).view(np.uint8)
    return quant.quantise(kind, values)


def _set_scales(kind: str, blocks: quant.Blocks, scales: NDArray[np.float64]) -> None:
    blocks["d"] = scales
    if kind in MINIMA:
        field, size = MINIMA[kind]
        blocks[field] = scales * size
