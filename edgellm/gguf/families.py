"""The model families of GGUF files: which architectures run, and what their files don't say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgellm.checkpoint import StoredTensor
from edgellm.config import Config, Layer, Rope, Yarn
from edgellm.errors import FormatError, UnsupportedError
from edgellm.keys import MAX_CONTEXT, MAX_LAYERS, MAX_WIDTH, Keys, is_empty


@dataclass(frozen=True)
class Family:
    """What a GGUF file of one architecture leaves to its reader."""

    norm: Literal["rms", "layer"] = "rms"
    position: Literal["rope", "learned", "alibi", "none"] = "rope"
    rope_style: Literal["half", "pair"] = "half"
    activation: Literal["silu", "gelu", "gelu_tanh", "relu2"] = "silu"
    parallel: bool = False
    scaled_embedding: bool = False
    """Embeddings are multiplied by sqrt(dim)."""
    local_period: int = 0
    """Every n-th layer attends to all positions, the others to a window; 0: all alike."""
    nope_period: int = 0
    """Every n-th layer carries no rotary positions; 0: none."""
    attn_softcap: float = 0.0
    logit_softcap: float = 0.0
    wide_scale_layers: int = 0
    """At this depth attention is scaled by (dim/heads)**-0.5 instead of head_dim**-0.5."""


FAMILIES: dict[str, Family] = {
    "llama": Family(rope_style="pair"),
    "gpt2": Family("layer", "learned", activation="gelu_tanh"),
    "gptj": Family("layer", rope_style="pair", activation="gelu_tanh", parallel=True),
    "gptneox": Family("layer", activation="gelu", parallel=True),
    "stablelm": Family("layer"),
    "falcon": Family("layer", activation="gelu", parallel=True),
    "qwen2": Family(),
    "qwen3": Family(),
    "gemma2": Family(
        activation="gelu_tanh",
        scaled_embedding=True,
        local_period=2,
        attn_softcap=50.0,
        logit_softcap=30.0,
        wide_scale_layers=46,
    ),
    "gemma3": Family(
        activation="gelu_tanh", scaled_embedding=True, local_period=6, wide_scale_layers=62
    ),
    "phi3": Family(),
    "granite": Family(rope_style="pair"),
    "granitehybrid": Family(rope_style="pair"),
    "smollm3": Family(rope_style="pair", nope_period=4),
    "lfm2": Family(),
    "bitnet": Family(),
    "bitnet-b1.58": Family(activation="relu2"),
}

SSM_KEYS = ("conv_kernel", "state_size", "group_count", "inner_size", "time_step_rank")

# Keys below "<architecture>." that change nothing in the forward pass.
IRRELEVANT = {
    "expert_feed_forward_length",
    "expert_shared_feed_forward_length",
    "feed_forward_length",  # the matrices' shapes say it
    "tensor_data_layout",
    "vocab_size",
    *(f"ssm.{key}" for key in SSM_KEYS),  # Granite 4 lists them for its dense models too
}
# Keys whose mechanism isn't implemented; absent, zero or false they ask for nothing.
REFUSED = {
    "attention.clamp_kqv",
    "attention.key_length_mla",
    "attention.max_alibi_bias",
    "attn_logit_softcapping_per_layer",
    "expert_count",
    "expert_used_count",
    "expert_shared_count",
    "rope.scaling.yarn_log_multiplier",
}


def config_from_gguf(
    file: str, metadata: Mapping[str, object], tensors: Mapping[str, StoredTensor]
) -> Config:
    """The Config of a GGUF file. Raises FormatError or UnsupportedError naming the key at fault."""
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in FAMILIES:
        raise UnsupportedError(
            file, "general.architecture", architecture, f"supported: {', '.join(FAMILIES)}"
        )
    family, keys = FAMILIES[architecture], Keys(file, metadata, f"{architecture}.")
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise FormatError(file, "tensor token_embd.weight", None, "a matrix of that name is needed")

    count = keys.integer("block_count", None, 1, MAX_LAYERS)
    dim = keys.integer("embedding_length", None, 1, MAX_WIDTH)
    heads = max(
        keys.per_layer("attention.head_count", 0, count, MAX_WIDTH)
    )  # hybrids may list 0 where a layer has no attention
    if not heads:
        raise keys.fail("attention.head_count", 0, "at least 1 is needed")
    kv_heads = keys.per_layer("attention.head_count_kv", heads, count, heads)
    head_dim = keys.integer("attention.key_length", max(dim // heads, 1), 1, MAX_WIDTH)
    if keys.integer("attention.value_length", head_dim, 1, MAX_WIDTH) != head_dim:
        raise UnsupportedError(
            file,
            keys.prefix + "attention.value_length",
            keys.get("attention.value_length"),
            f"only the key's length, {head_dim}, is supported",
        )
    down = tensors.get("blk.0.ffn_down.weight")
    if down is None or len(down.shape) != 2:
        raise FormatError(
            file, "tensor blk.0.ffn_down.weight", None, "a matrix of that name is needed"
        )
    context = keys.integer("context_length", None, 1, MAX_CONTEXT)
    if not keys.flag("attention.causal", True):
        raise UnsupportedError(
            file, keys.prefix + "attention.causal", False, "only causal models can write text"
        )

    ropes = _ropes(keys, family, tensors, head_dim, context)
    window = keys.integer("attention.sliding_window", 0, 0, MAX_CONTEXT)
    local = _local_layers(keys, family, count, window)
    layers = tuple(
        Layer(kind="conv")
        if f"blk.{index}.shortconv.conv.weight" in tensors
        else Layer(
            kv_heads=kv_heads[index],
            window=window if local[index] else 0,
            rope=_rope_index(family, index, local[index], len(ropes)),
        )
        for index in range(count)
    )
    for layer in layers:
        if layer.kind == "attention" and (not layer.kv_heads or heads % layer.kv_heads):
            raise keys.fail(
                "attention.head_count_kv", layer.kv_heads, f"a divisor of {heads} is needed"
            )
    epsilons = {  # some files give both
        "rms": keys.number("attention.layer_norm_rms_epsilon", 1e-5, 0.0, 1.0),
        "layer": keys.number("attention.layer_norm_epsilon", 1e-5, 0.0, 1.0),
    }
    config = Config(
        architecture=architecture,
        vocab=embedding.shape[0],
        dim=dim,
        heads=heads,
        head_dim=head_dim,
        hidden=down.shape[1],
        context=context,
        layers=layers,
        norm=family.norm,
        norm_eps=epsilons[family.norm],
        position=family.position if ropes or family.position != "rope" else "none",
        rope_style=family.rope_style,
        ropes=ropes,
        parallel=_parallel(keys, family, architecture, tensors),
        activation=_activation(family, architecture, metadata),
        attn_scale=_attn_scale(keys, family, dim, heads, count),
        attn_softcap=keys.number("attn_logit_softcapping", family.attn_softcap),
        logit_softcap=keys.number("final_logit_softcapping", family.logit_softcap),
        embed_scale=keys.number(
            "embedding_scale", math.sqrt(dim) if family.scaled_embedding else 1.0
        ),
        residual_scale=keys.number("residual_scale", 1.0),
        logit_scale=keys.number("logit_scale", 1.0) or 1.0,
        conv_taps=keys.integer("shortconv.l_cache", 0, 0, 64),
    )
    keys.refuse_rest(
        lambda name, value: name in IRRELEVANT or (name in REFUSED and is_empty(value))
    )
    return config


def _rope_index(family: Family, index: int, local: bool, ropes: int) -> int | None:
    if not ropes or (family.nope_period and (index + 1) % family.nope_period == 0):
        return None
    return 1 if local and ropes > 1 else 0


def _local_layers(keys: Keys, family: Family, count: int, window: int) -> list[bool]:
    """Which layers attend to a window only."""
    pattern = keys.get("attention.sliding_window_pattern")
    if isinstance(pattern, list | np.ndarray):
        if len(pattern) != count:
            raise keys.fail(
                "attention.sliding_window_pattern", pattern, f"{count} values are needed"
            )
        return [bool(value) and window > 0 for value in pattern]
    period = keys.integer("attention.sliding_window_pattern", family.local_period, 0, MAX_LAYERS)
    return [window > 0 and (not period or (index + 1) % period != 0) for index in range(count)]


def _parallel(
    keys: Keys, family: Family, architecture: str, tensors: Mapping[str, StoredTensor]
) -> bool:
    said = keys.flag("use_parallel_residual", family.parallel)
    if architecture == "stablelm":
        # StableLM-2-12B has one norm a block; its converter writes no reliable key for it.
        return "blk.0.ffn_norm.weight" not in tensors
    return said


def _activation(
    family: Family, architecture: str, metadata: Mapping[str, object]
) -> Literal["silu", "gelu", "gelu_tanh", "relu2"]:
    # Cerebras-GPT was trained with the erf form; GGUF has no key for it but the model's name.
    names = (metadata.get("general.name"), metadata.get("general.basename"))
    if architecture == "gpt2" and any("cerebras" in str(name).lower() for name in names):
        return "gelu"
    return family.activation


def _attn_scale(keys: Keys, family: Family, dim: int, heads: int, count: int) -> float:
    if family.wide_scale_layers == count:
        return float((dim / heads) ** -0.5)
    return keys.number("attention.scale", 0.0)


def _ropes(
    keys: Keys,
    family: Family,
    tensors: Mapping[str, StoredTensor],
    head_dim: int,
    context: int,
) -> tuple[Rope, ...]:
    width = keys.integer("rope.dimension_count", head_dim, 0, head_dim)
    theta = keys.number("rope.freq_base", 10000.0, 1e-3)
    local_theta = keys.number("rope.freq_base_swa", 10000.0, 1e-3)
    kind = keys.word("rope.scaling.type", "none")
    # Files of 2023 say `rope.scale_linear` where later ones say `rope.scaling.factor`.
    factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 1.0)) or 1.0
    original = keys.integer("rope.scaling.original_context_length", context, 1, MAX_CONTEXT)
    magnitude = keys.number("rope.scaling.attn_factor", 1.0) or 1.0
    magnitude *= keys.number("rope.scaling.yarn_attn_factor", 1.0) or 1.0
    fast = keys.number("rope.scaling.yarn_beta_fast", 32.0)
    slow = keys.number("rope.scaling.yarn_beta_slow", 1.0)
    extrapolation = keys.number("rope.scaling.yarn_ext_factor", 1.0, -1.0)
    # Granite's files use this key to say whether there are positions at all.
    rotary = keys.flag("rope.scaling.finetuned", True) or not keys.prefix.startswith("granite")
    if family.position != "rope" or not rotary:
        return ()
    if width == 0 or width % 2:
        raise keys.fail("rope.dimension_count", width, f"an even number up to {head_dim} is needed")
    if kind not in ("none", "linear", "yarn", "longrope"):
        raise UnsupportedError(
            keys.file,
            keys.prefix + "rope.scaling.type",
            kind,
            "supported: none, linear, yarn, longrope",
        )
    yarn, scale = None, 1.0
    if kind == "yarn" and extrapolation:
        yarn = Yarn(factor, original, fast, slow)
        magnitude *= 1 + 0.1 * math.log(factor) if factor > 1 else 1.0
    elif kind in ("linear", "yarn") or keys.get("rope.scale_linear") is not None:
        scale = factor
    short = _factors(keys, tensors, "rope_factors_short.weight", width)
    ropes = [
        Rope(
            dim=width,
            theta=theta,
            factors=short or _factors(keys, tensors, "rope_freqs.weight", width),
            long_factors=_factors(keys, tensors, "rope_factors_long.weight", width),
            original_context=original,
            scale=scale,
            yarn=yarn,
            magnitude=magnitude,
        )
    ]
    if family.local_period and keys.prefix == "gemma3.":
        ropes.append(Rope(dim=width, theta=local_theta))
    return tuple(ropes)


def _factors(
    keys: Keys, tensors: Mapping[str, StoredTensor], name: str, width: int
) -> tuple[float, ...]:
    tensor = tensors.get(name)
    if tensor is None:
        return ()
    if tensor.shape != (width // 2,):
        raise FormatError(keys.file, f"shape of {name}", tensor.shape, f"({width // 2},) is needed")
    values = tensor.float32()
    if not np.all(np.isfinite(values)) or not np.all(values > 0):
        raise FormatError(keys.file, name, values.tolist(), "finite positive numbers are needed")
    return tuple(float(value) for value in values)
