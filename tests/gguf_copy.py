"""A Hugging Face folder's model as a GGUF file, as other programs' converters would write it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgellm import gguf, tokenizer
from edgellm.config import Config, Rope
from edgellm.huggingface import read

PAIRED = {"llama", "granite", "smollm3"}
"""Architectures whose files hold queries and keys with the rotated pairs side by side."""
NAMES = {"bitnet": "bitnet-b1.58"}

Floats = NDArray[np.float32]


def write_gguf(folder: Path, path: Path, name: str) -> None:
    """Matrices become float16, the rest float32."""
    checkpoint = read(folder)
    tensors: dict[str, Floats] = {}
    for key, tensor in checkpoint.tensors.items():
        tensors |= rearranged(checkpoint.config, key, tensor.float32())
    tensors |= rope_tables(checkpoint.config.ropes)
    halved = {
        key: values.astype(np.float16) if values.ndim == 2 and "norm" not in key else values
        for key, values in tensors.items()
    }
    data = tokenizer.tokenizer_data_from_folder(folder)
    assert data is not None
    vocabulary = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": list(data.tokens),
        "tokenizer.ggml.token_type": list(data.types),
        "tokenizer.ggml.merges": list(data.merges),
        "tokenizer.ggml.eos_token_id": 0,
    }
    gguf.write(path, {"general.name": name, **metadata(checkpoint.config), **vocabulary}, halved)


def rearranged(config: Config, name: str, values: Floats) -> dict[str, Floats]:
    """The tensor as GGUF stores it, which may be in two parts."""
    heads = {"attn_q": config.heads, "attn_k": config.layers[0].kv_heads}
    part = name.split(".")[2] if name.startswith("blk.") else ""
    if config.architecture in PAIRED and part in heads:
        halves = values.reshape(heads[part], 2, -1, *values.shape[1:])
        return {name: halves.swapaxes(1, 2).reshape(values.shape)}
    if config.architecture == "granite" and part == "ffn_up" and len(values) == 2 * config.hidden:
        gate, up = np.split(values, 2)
        return {name.replace("ffn_up", "ffn_gate"): gate, name: up}
    return {name: values}


def rope_tables(ropes: tuple[Rope, ...]) -> dict[str, Floats]:
    if not ropes or not ropes[0].factors:
        return {}
    short = np.array(ropes[0].factors, dtype=np.float32)
    if not ropes[0].long_factors:
        return {"rope_freqs.weight": short}
    long = np.array(ropes[0].long_factors, dtype=np.float32)
    return {"rope_factors_short.weight": short, "rope_factors_long.weight": long}


def metadata(config: Config) -> dict[str, object]:
    architecture = NAMES.get(config.architecture, config.architecture)
    kv_heads = [layer.kv_heads for layer in config.layers]
    norm = "layer_norm_rms_epsilon" if config.norm == "rms" else "layer_norm_epsilon"
    keys: dict[str, object] = {
        "block_count": len(config.layers),
        "context_length": config.context,
        "embedding_length": config.dim,
        "feed_forward_length": config.hidden,
        "attention.head_count": config.heads,
        "attention.head_count_kv": kv_heads[0] if len(set(kv_heads)) == 1 else kv_heads,
        f"attention.{norm}": config.norm_eps,
    }
    if config.heads * config.head_dim != config.dim:
        keys |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    if architecture in ("gptneox", "stablelm"):
        keys["use_parallel_residual"] = config.parallel
    if architecture == "granite":
        keys |= {
            "attention.scale": config.attn_scale,
            "embedding_scale": config.embed_scale,
            "residual_scale": config.residual_scale,
            "logit_scale": config.logit_scale,
        }
    windows = [layer.window for layer in config.layers if layer.window]
    if windows:
        keys["attention.sliding_window"] = windows[0]
    if config.attn_softcap:
        keys["attn_logit_softcapping"] = config.attn_softcap
    if config.logit_softcap:
        keys["final_logit_softcapping"] = config.logit_softcap
    if config.conv_taps:
        keys["shortconv.l_cache"] = config.conv_taps
    keys |= rope_keys(config.ropes)
    return {
        "general.architecture": architecture,
        **{f"{architecture}.{key}": value for key, value in keys.items()},
    }


def rope_keys(ropes: tuple[Rope, ...]) -> dict[str, object]:
    if not ropes:
        return {}
    rope = ropes[0]
    keys: dict[str, object] = {"rope.dimension_count": rope.dim, "rope.freq_base": rope.theta}
    if len(ropes) > 1:
        keys["rope.freq_base_swa"] = ropes[1].theta
    if rope.scale != 1:
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope.scale}
    if rope.yarn:
        keys |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": rope.yarn.factor,
            "rope.scaling.original_context_length": rope.yarn.original_context,
        }
    if rope.long_factors:
        keys |= {
            "rope.scaling.original_context_length": rope.original_context,
            "rope.scaling.attn_factor": rope.magnitude,
        }
    return keys
