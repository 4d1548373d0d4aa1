"""config.json, as transformers wrote it over the years, to Config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgellm.config import Config, Layer, Rope
from edgellm.huggingface.families import (
    ACTIVATIONS,
    FAMILIES,
    IRRELEVANT,
    MODEL_TYPES,
    SPELLINGS,
    USUAL,
    Activation,
    Family,
)
from edgellm.huggingface.rope import ropes
from edgellm.keys import MAX_CONTEXT, MAX_LAYERS, MAX_WIDTH, Keys, is_empty

MAX_VOCABULARY = 1 << 24


@dataclass(frozen=True)
class Switches:
    """What decides which tensors a folder must hold, beyond what the Config says."""

    model_type: str
    tied: bool
    biases: frozenset[str]
    """Canonical names of the matrices that have one."""
    norms: int = 1
    """Norms of a parallel block."""
    head_norms: bool = False
    """A norm on queries and keys with a weight for each head."""
    quantised: Literal["", "online", "product", "quotient"] = ""
    """BitNet's ternary weights: made on loading, or times or divided by their scale."""


def read(file: str, values: Mapping[str, object]) -> tuple[Config, Switches]:
    """The Config that the content of config.json asks for.

    Raises FormatError for a value of the wrong type or range, UnsupportedError for a model_type,
    key or value that edgellm doesn't run; both name the key.
    """
    keys = Keys(file, _respelled(values))
    model_type = keys.word("model_type", "")
    name = MODEL_TYPES.get(model_type, model_type)
    if name not in FAMILIES:
        allowed = f"supported: {', '.join(FAMILIES)}"
        raise keys.unsupported("model_type", model_type or None, allowed)
    family = FAMILIES[name]
    config = _config(keys, name, family)
    switches = _switches(keys, name, family)
    for key, usual in USUAL.items():
        value = keys.get(key)
        if value is not None and value != usual:
            raise keys.unsupported(key, value, f"only {usual!r} is supported")
    keys.refuse_rest(lambda key, value: bool(IRRELEVANT.fullmatch(key)) or is_empty(value))
    return config, switches


def _respelled(values: Mapping[str, object]) -> dict[str, object]:
    found = dict(values)
    # Gemma's files may name another activation beside the one that counts.
    if found.get("hidden_activation") is not None:
        found["hidden_act"] = found["hidden_activation"]
    found.pop("hidden_activation", None)
    for name, others in SPELLINGS.items():
        said = [found.pop(other, None) for other in others]
        if found.get(name) is None:
            found[name] = next((value for value in said if value is not None), None)
    return found


def _config(keys: Keys, name: str, family: Family) -> Config:
    count = keys.integer("num_hidden_layers", None, 1, MAX_LAYERS)
    dim = keys.integer("hidden_size", None, 1, MAX_WIDTH)
    heads = keys.integer("num_attention_heads", None, 1, MAX_WIDTH)
    if not family.head_dim and keys.get("head_dim") is None and dim % heads:
        raise keys.fail("num_attention_heads", heads, f"it must divide hidden_size {dim}")
    head_dim = keys.integer("head_dim", family.head_dim or dim // heads, 1, MAX_WIDTH)
    context = keys.integer("max_position_embeddings", family.context, 1, MAX_CONTEXT)
    position = _position(keys, name, family)
    tables = _ropes(keys, name, family, head_dim, context)
    if position != "rope":
        tables = ()
    layers = _layers(keys, name, family, count, _kv_heads(keys, name, heads), len(tables))
    multiplier = keys.number("embedding_multiplier", 1.0)
    return Config(
        architecture=family.architecture,
        vocab=keys.integer("vocab_size", None, 1, MAX_VOCABULARY),
        dim=dim,
        heads=heads,
        head_dim=head_dim,
        hidden=_hidden(keys, name, family, dim),
        context=context,
        layers=layers,
        norm=family.norm,
        norm_eps=keys.number("norm_eps", family.eps, 0.0, 1.0),
        position=position,
        rope_style=family.rope_style,
        ropes=tables,
        parallel=_parallel(keys, name, family),
        activation=_activation(keys, family),
        attn_scale=_attn_scale(keys, name, head_dim),
        # Gemma-3's configuration has the key too, but no use for it.
        attn_softcap=_cap(keys, "attn_logit_softcapping", 50.0) if name == "gemma2" else 0.0,
        logit_softcap=_cap(keys, "final_logit_softcapping", family.logit_softcap),
        embed_scale=math.sqrt(dim) if family.scaled_embedding else multiplier,
        residual_scale=keys.number("residual_multiplier", 1.0),
        logit_scale=keys.number("logits_scaling", 1.0, 1e-6),
        conv_taps=keys.integer("conv_L_cache", 3, 1, 64) if name == "lfm2" else 0,
    )


def _is_null(keys: Keys, name: str) -> bool:
    """Whether null is written out: none, not the default for files that leave the key out."""
    return name in keys.values and keys.values[name] is None


def _cap(keys: Keys, name: str, default: float) -> float:
    return keys.number(name, 0.0 if _is_null(keys, name) else default)


def _position(keys: Keys, name: str, family: Family) -> Literal["rope", "learned", "alibi", "none"]:
    if name == "falcon" and keys.flag("alibi", False):
        return "alibi"
    if name == "granitemoehybrid" and keys.word("position_embedding_type", "nope") != "rope":
        return "none"
    return family.position


def _ropes(keys: Keys, name: str, family: Family, head_dim: int, context: int) -> tuple[Rope, ...]:
    if name == "gptj":
        width = keys.integer("rotary_dim", min(64, head_dim), 2, head_dim)
        if width % 2:
            raise keys.fail("rotary_dim", width, "an even number is needed")
        return (Rope(dim=width, original_context=context),)
    if family.position == "rope":
        return ropes(keys, family.rope, head_dim, context)
    return ()


def _kv_heads(keys: Keys, name: str, heads: int) -> int:
    said = keys.integer("num_key_value_heads", heads, 1, heads)
    if name == "falcon" and not _new_falcon(keys):
        said = 1 if keys.flag("multi_query", True) else heads
    if heads % said:
        raise keys.fail("num_key_value_heads", said, f"it must divide the {heads} heads")
    return said


def _new_falcon(keys: Keys) -> bool:
    """Falcon-40B's block: heads in groups, attention and feed-forward always parallel."""
    return keys.flag("new_decoder_architecture", keys.get("model_type") == "RefinedWeb")


def _hidden(keys: Keys, name: str, family: Family, dim: int) -> int:
    if name == "granitemoehybrid":
        if keys.integer("num_local_experts", 8, 0, MAX_WIDTH):
            value = keys.get("num_local_experts")
            raise keys.unsupported("num_local_experts", value, "only dense models are supported")
        # The other width and number would be the experts'.
        for experts in ("intermediate_size", "num_experts_per_tok"):
            keys.get(experts)
        return keys.integer("shared_intermediate_size", 1024, 1, MAX_WIDTH)
    if name != "lfm2":
        plain = family.expansion * dim if family.expansion else None
        return keys.integer("intermediate_size", plain, 1, MAX_WIDTH)
    outer = keys.integer("intermediate_size", 12288, 1, MAX_WIDTH)
    hidden = keys.integer("block_ff_dim", outer, 1, MAX_WIDTH)
    multiple = keys.integer("block_multiple_of", 256, 1, MAX_WIDTH)
    factor = keys.number("block_ffn_dim_multiplier", 1.0, 1e-3, 1e3)
    if keys.flag("block_auto_adjust_ff_dim", True):
        hidden = int(factor * int(2 * hidden / 3))
        hidden = -(-hidden // multiple) * multiple
    return hidden


def _layers(
    keys: Keys, name: str, family: Family, count: int, kv_heads: int, tables: int
) -> tuple[Layer, ...]:
    window = _window(keys, family)
    rotated = _rotated(keys, name, count)
    layers = []
    for index, kind in enumerate(_layer_types(keys, name, family, count, rotated)):
        if kind == "conv":
            layers.append(Layer(kind="conv"))
            continue
        local = kind == "sliding_attention" and window > 0
        table = 1 if local and tables > 1 else 0
        layers.append(
            Layer(
                kv_heads=kv_heads,
                window=window if local else 0,
                rope=table if tables and rotated[index] else None,
            )
        )
    return tuple(layers)


def _window(keys: Keys, family: Family) -> int:
    if family.windowed == "never":
        return 0
    window = keys.integer("sliding_window", family.window, 0, MAX_CONTEXT)
    if family.windowed == "switch" and not keys.flag("use_sliding_window", False):
        return 0
    return 0 if _is_null(keys, "sliding_window") else window


def _layer_types(
    keys: Keys, name: str, family: Family, count: int, rotated: list[bool]
) -> list[str]:
    types = keys.get("layer_types")
    attending = keys.get("full_attn_idxs")
    period = keys.integer("sliding_window_pattern", family.period, 0, MAX_LAYERS)
    if types is None and attending is not None:
        if not isinstance(attending, list) or not all(type(each) is int for each in attending):
            raise keys.fail("full_attn_idxs", attending, "a list of layer numbers is needed")
        chosen = {*attending}
        return ["full_attention" if index in chosen else "conv" for index in range(count)]
    if types is None:
        local = _local(keys, name, family, period, count, rotated)
        return ["sliding_attention" if each else "full_attention" for each in local]
    if not isinstance(types, list) or len(types) != count:
        raise keys.fail("layer_types", types, f"a list of {count} layer types is needed")
    known = {"full_attention", "attention"}
    known |= {"conv"} if name == "lfm2" else set()
    known |= {"sliding_attention"} if family.windowed != "never" else set()
    for each in types:
        if not isinstance(each, str) or each not in known:
            raise keys.unsupported("layer_types", each, f"supported: {', '.join(sorted(known))}")
    return types


def _local(
    keys: Keys, name: str, family: Family, period: int, count: int, rotated: list[bool]
) -> list[bool]:
    """Which layers attend to a window, if the model has one, where layer_types doesn't say."""
    if name == "smollm3":
        return [not each for each in rotated]
    if family.windowed == "alternate":
        return [not period or (index + 1) % period != 0 for index in range(count)]
    first = keys.integer("max_window_layers", 28, 0, MAX_CONTEXT)
    if family.windowed == "switch":
        return [index >= first for index in range(count)]
    return [family.windowed == "all"] * count


def _rotated(keys: Keys, name: str, count: int) -> list[bool]:
    """Which layers carry rotary positions; SmolLM3 leaves them out in some."""
    if name != "smollm3":
        return [True] * count
    interval = keys.integer("no_rope_layer_interval", 4, 1, MAX_LAYERS)
    flags = keys.get("no_rope_layers")
    if flags is None:
        return [(index + 1) % interval != 0 for index in range(count)]
    if not isinstance(flags, list) or len(flags) < count or not all(f in (0, 1) for f in flags):
        raise keys.fail("no_rope_layers", flags, f"a list of {count} zeros and ones is needed")
    return [bool(flag) for flag in flags[:count]]


def _parallel(keys: Keys, name: str, family: Family) -> bool:
    if name == "falcon":
        return keys.flag("parallel_attn", family.parallel) or _new_falcon(keys)
    if name in ("gpt_neox", "stablelm"):
        return keys.flag("use_parallel_residual", family.parallel)
    return family.parallel


def _activation(keys: Keys, family: Family) -> Activation:
    said = keys.word("hidden_act", family.activation)
    if said not in ACTIVATIONS:
        raise keys.unsupported("hidden_act", said, f"supported: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[said]


def _attn_scale(keys: Keys, name: str, head_dim: int) -> float:
    if name in ("gemma2", "gemma3_text"):
        width = keys.number("query_pre_attn_scalar", 256.0, 1e-3)
        return 0.0 if width == head_dim else 1 / math.sqrt(width)
    if name in ("granite", "granitemoehybrid"):
        return keys.number("attention_multiplier", 1.0, 1e-6)
    return 0.0


def _switches(keys: Keys, name: str, family: Family) -> Switches:
    norms = 1
    if name == "falcon":
        new = _new_falcon(keys)
        norms = keys.integer("num_ln_in_parallel_attn", 2 if new else 1, 1, 2)
        if norms == 2 and not new:
            allowed = "2 needs new_decoder_architecture"
            raise keys.unsupported("num_ln_in_parallel_attn", norms, allowed)
    return Switches(
        model_type=name,
        tied=keys.flag("tie_word_embeddings", family.tied),
        biases=frozenset(
            matrix
            for bias in family.biases
            if not bias.flag or keys.flag(bias.flag, bias.default)
            for matrix in bias.matrices
        ),
        norms=norms,
        head_norms=name == "stablelm" and keys.flag("qk_layernorm", False),
        quantised=_quantised(keys, name),
    )


def _quantised(keys: Keys, name: str) -> Literal["", "online", "product", "quotient"]:
    said = keys.get("quantization_config")
    if said is None:
        return ""
    if not isinstance(said, dict):
        raise keys.fail("quantization_config", said, "an object is needed")
    inner = Keys(keys.file, said)
    method = inner.word("quant_method", "")
    if name != "bitnet" or method != "bitnet":
        allowed = "float32, float16 and bfloat16 weights, and BitNet's, are supported"
        raise keys.unsupported("quantization_config.quant_method", method or None, allowed)
    if inner.flag("use_rms_norm", False):
        raise keys.unsupported("quantization_config.use_rms_norm", True, "only false is supported")
    inner.get("modules_to_not_convert")
    inner.get("rms_norm_eps")
    linear = inner.word("linear_class", "bitlinear")
    mode = inner.word("quantization_mode", "offline")
    inner.refuse_rest(lambda _, value: is_empty(value))
    if (linear, mode) == ("autobitlinear", "online"):
        return "online"
    if mode == "offline" and linear in ("autobitlinear", "bitlinear"):
        return "product" if linear == "autobitlinear" else "quotient"
    allowed = "linear_class autobitlinear or bitlinear, quantization_mode offline is supported"
    raise keys.unsupported("quantization_config", said, allowed)
