"""Make tests/data/models: a tiny model of every family, as a folder and as GGUF, with its logits.

The logits are transformers' own, in float32. Run it where edgellm and the dependency
group "references" (torch and transformers) are installed:

    python tests/make_references.py [FAMILY …]

Each folder gets config.json and model.safetensors (in bfloat16), a tokenizer that is only there to
be loaded, model.gguf where the format can express the family (in float16, the same values), and
reference.npz: tokens_0, logits_0, tokens_1, … and `greedy`, which is tokens_1 and what follows.
Weights are random, from a seed; norms and biases too, so that a forgotten one shows.
"""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from gguf_copy import write_gguf

OUT = Path(__file__).parent / "data" / "models"
VOCABULARY = 64
CONTEXT = 64
CHARACTERS = "!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]"

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LONGROPE = {"rope_type": "longrope", "original_max_position_embeddings": 32}
GRANITE = {
    "embedding_multiplier": 3.0,
    "logits_scaling": 4.0,
    "residual_multiplier": 0.4,
    "attention_multiplier": 0.25,
    "tie_word_embeddings": True,
}
GEMMA = {
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "sliding_window": 6,
    "num_hidden_layers": 3,
    "tie_word_embeddings": True,
}


def rope(theta: float = 10000.0, **parameters: object) -> dict[str, object]:
    return {"rope_type": "default", "rope_theta": theta, **parameters}


def factors(count: int) -> dict[str, object]:
    short, long = ([1 + step * i for i in range(count)] for step in (0.125, 1.0))
    return {**LONGROPE, "rope_theta": 10000.0, "short_factor": short, "long_factor": long}


# Name: transformers' configuration class, its settings beside the common ones below.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"num_key_value_heads": 4}),
    "llama_gqa_bias": ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 12}),
    "llama3": ("Llama", {"rope_parameters": rope(500.0) | LLAMA3, "tie_word_embeddings": True}),
    "llama_linear": ("Llama", {"rope_parameters": rope() | {"rope_type": "linear", "factor": 2.5}}),
    "mistral": ("Mistral", {"sliding_window": 6}),
    "gpt2": ("GPT2", {}),
    "cerebras_gpt": ("GPT2", {"activation_function": "gelu"}),
    "gptj": ("GPTJ", {"rotary_dim": 4}),
    "gpt_neox": ("GPTNeoX", {"intermediate_size": 64}),
    "gpt_neox_sequential": (
        "GPTNeoX",
        {
            "intermediate_size": 64,
            "use_parallel_residual": False,
            "rope_parameters": rope(partial_rotary_factor=1.0),
        },
    ),
    "stablelm": ("StableLm", {"num_key_value_heads": 4}),
    "stablelm_2": ("StableLm", {"num_key_value_heads": 4, "use_qkv_bias": True}),
    "stablelm_2_12b": ("StableLm", {"qk_layernorm": True, "use_parallel_residual": True}),
    "falcon_7b": ("Falcon", {"multi_query": True}),
    "falcon_40b": ("Falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon_rw": (
        "Falcon",
        {"multi_query": False, "parallel_attn": False, "alibi": True, "bias": True},
    ),
    "qwen2": ("Qwen2", {"rope_parameters": rope(1e6), "tie_word_embeddings": True}),
    "qwen2_yarn": ("Qwen2", {"rope_parameters": rope(1e6) | YARN}),
    "qwen3": ("Qwen3", {"head_dim": 12, "rope_parameters": rope(1e6)}),
    "gemma2": (
        "Gemma2",
        {**GEMMA, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 6.0},
    ),
    "gemma3": (
        "Gemma3Text",
        {**GEMMA, "num_hidden_layers": 7, "num_key_value_heads": 1},
    ),
    "phi3": ("Phi3", {"num_key_value_heads": 4}),
    "phi3_longrope": (
        "Phi3",
        {"rope_parameters": factors(4), "original_max_position_embeddings": 32},
    ),
    "phi4_mini": (
        "Phi3",
        {
            "head_dim": 8,
            "rope_parameters": factors(3) | {"partial_rotary_factor": 0.75},
            "original_max_position_embeddings": 32,
            "tie_word_embeddings": True,
        },
    ),
    "granite": ("Granite", GRANITE),
    "granite_4": (
        "GraniteMoeHybrid",
        {
            **GRANITE,
            "shared_intermediate_size": 48,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "layer_types": ["full_attention"] * 2,
            "position_embedding_type": "rope",
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
        },
    ),
    "smollm3": ("SmolLM3", {"num_hidden_layers": 4, "tie_word_embeddings": True}),
    "lfm2": (
        "Lfm2",
        {
            "num_hidden_layers": 3,
            "layer_types": ["conv", "full_attention", "conv"],
            "block_multiple_of": 16,
            "tie_word_embeddings": True,
        },
    ),
    "bitnet": ("BitNet", {"tie_word_embeddings": True}),
}
WITHOUT_GGUF = {"falcon_rw", "mistral"}
"""ALiBi with biases, and windows in the llama architecture, aren't expressed there."""
LONG = {"phi3_longrope", "phi4_mini"}
"""Their tokens_3 is longer than the original context of 32, which chooses other factors."""


def settings(kind: str, own: dict[str, Any]) -> dict[str, Any]:
    """`own` over the sizes that all share, in the spelling of the configuration class."""
    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": None,
    }
    if kind not in ("GPT2", "GPTJ", "Falcon", "GPTNeoX"):
        common |= {"intermediate_size": 48, "num_key_value_heads": 2}
    if kind in ("GPT2", "GPTJ"):
        names = {
            "hidden_size": "n_embd",
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
            "max_position_embeddings": "n_positions",
        }
        common = {names.get(key, key): value for key, value in common.items()}
    return common | own


def fill(model: torch.nn.Module, seed: int) -> None:
    """Random weights that bfloat16 and float16 hold alike."""
    generator = torch.Generator().manual_seed(seed)
    centred = "Gemma" in type(model).__name__  # its norms multiply by 1 + weight
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            values = 0.3 * values + (0 if centred or name.endswith("bias") else 1)
        elif any(part in name for part in ("embed_tokens", "embed_in", "wte", "wpe", "embeddings")):
            values = 0.3 * values
        elif parameter.ndim == 3:
            values = 0.6 * values
        else:
            values = 1.5 * values / min(parameter.shape) ** 0.5
        values = values.bfloat16().float()
        parameter.data = torch.where(values.abs() < 2**-17, 0.0, values)


def greedy(model: torch.nn.Module, tokens: np.ndarray[Any, Any], count: int = 12) -> list[int]:
    """`tokens` and what follows; [] where two choices are too close to call."""
    ids = [int(token) for token in tokens]
    for _ in range(count):
        scores = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        first, second = torch.topk(scores, 2).values
        if first - second < 0.02:
            return []
        ids.append(int(scores.argmax()))
    return ids


@torch.no_grad()
def make(name: str) -> None:
    kind, own = FAMILIES[name]
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(name.encode())
    config = getattr(transformers, f"{kind}Config")(**settings(kind, own))
    # Gemma-2's caps and GPT-J exist in one implementation only; Falcon's adds ALiBi twice there.
    implementation = "eager" if kind in ("Gemma2", "GPTJ") else "sdpa"
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation=implementation, dtype=torch.float32
    ).eval()
    fill(model, seed)
    model.tie_weights()

    rng = np.random.default_rng(seed)
    lengths = [1, 5, 24] + ([40] if name in LONG else [])
    prompts = [rng.integers(0, VOCABULARY, length, dtype=np.int32) for length in lengths]
    while not (following := greedy(model, prompts[1])):
        prompts[1] = rng.integers(0, VOCABULARY, len(prompts[1]), dtype=np.int32)
    arrays = {"greedy": np.array(following, dtype=np.int32)}
    for index, tokens in enumerate(prompts):
        logits = model(torch.tensor(tokens[None], dtype=torch.int64), use_cache=False).logits[0]
        arrays |= {f"tokens_{index}": tokens, f"logits_{index}": logits.numpy()}
    np.savez_compressed(folder / "reference.npz", **arrays)

    model.bfloat16().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    write_tokenizer(folder)
    if name not in WITHOUT_GGUF:
        write_gguf(folder, folder / "model.gguf", name)


def write_tokenizer(folder: Path) -> None:
    tokens = ["<|endoftext|>", *CHARACTERS, "Ġ", "AB"]
    end = {"id": 0, "content": tokens[0], "special": True, "normalized": False}
    file = {
        "version": "1.0",
        "added_tokens": [end | {"single_word": False, "lstrip": False, "rstrip": False}],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel"},
        "model": {
            "type": "BPE",
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": ["A B"],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(file))


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for family in sys.argv[1:] or FAMILIES:
        make(family)
        print(family)
