"""What each family calls its modules in safetensors, and GGUF's names for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Names:
    """Where a family keeps its modules: their names under `prefix`, and GGUF's for them."""

    prefix: str
    top: Mapping[str, str]
    layer: str
    """What precedes a layer's number."""
    block: Mapping[str, str]
    head: str = "lm_head"


ATTENTION = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
}
LLAMA_TOP = {"embed_tokens": "token_embd", "norm": "output_norm"}
LLAMA_BLOCK = {
    "input_layernorm": "attn_norm",
    **ATTENTION,
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
LLAMA = Names("model.", LLAMA_TOP, "layers.", LLAMA_BLOCK)
HEAD_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
GEMMA_BLOCK = {
    **LLAMA_BLOCK,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}

NAMES: dict[str, Names] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": replace(LLAMA, block={**LLAMA_BLOCK, **HEAD_NORMS}),
    "granite": LLAMA,
    "smollm3": LLAMA,
    "stablelm": LLAMA,
    "gemma2": replace(LLAMA, block=GEMMA_BLOCK),
    "gemma3_text": replace(LLAMA, block={**GEMMA_BLOCK, **HEAD_NORMS}),
    "bitnet": replace(
        LLAMA,
        block={
            **LLAMA_BLOCK,
            "self_attn.attn_sub_norm": "attn_sub_norm",
            "mlp.ffn_sub_norm": "ffn_sub_norm",
        },
    ),
    "phi3": replace(
        LLAMA,
        block={
            "input_layernorm": "attn_norm",
            "self_attn.qkv_proj": "attn_qkv",
            "self_attn.o_proj": "attn_output",
            "post_attention_layernorm": "ffn_norm",
            "mlp.gate_up_proj": "ffn_up",
            "mlp.down_proj": "ffn_down",
        },
    ),
    "granitemoehybrid": replace(
        LLAMA,
        block={
            "input_layernorm": "attn_norm",
            **ATTENTION,
            "post_attention_layernorm": "ffn_norm",
            "shared_mlp.input_linear": "ffn_up",
            "shared_mlp.output_linear": "ffn_down",
        },
    ),
    "lfm2": Names(
        "model.",
        {"embed_tokens": "token_embd", "embedding_norm": "token_embd_norm"},
        "layers.",
        {
            "operator_norm": "attn_norm",
            "self_attn.q_proj": "attn_q",
            "self_attn.k_proj": "attn_k",
            "self_attn.v_proj": "attn_v",
            "self_attn.out_proj": "attn_output",
            "self_attn.q_layernorm": "attn_q_norm",
            "self_attn.k_layernorm": "attn_k_norm",
            "conv.in_proj": "shortconv.in_proj",
            "conv.conv": "shortconv.conv",
            "conv.out_proj": "shortconv.out_proj",
            "ffn_norm": "ffn_norm",
            "feed_forward.w1": "ffn_gate",
            "feed_forward.w3": "ffn_up",
            "feed_forward.w2": "ffn_down",
        },
    ),
    "gpt2": Names(
        "transformer.",
        {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"},
        "h.",
        {
            "ln_1": "attn_norm",
            "attn.c_attn": "attn_qkv",
            "attn.c_proj": "attn_output",
            "ln_2": "ffn_norm",
            "mlp.c_fc": "ffn_up",
            "mlp.c_proj": "ffn_down",
        },
    ),
    "gptj": Names(
        "transformer.",
        {"wte": "token_embd", "ln_f": "output_norm"},
        "h.",
        {
            "ln_1": "attn_norm",
            "attn.q_proj": "attn_q",
            "attn.k_proj": "attn_k",
            "attn.v_proj": "attn_v",
            "attn.out_proj": "attn_output",
            "mlp.fc_in": "ffn_up",
            "mlp.fc_out": "ffn_down",
        },
    ),
    "gpt_neox": Names(
        "gpt_neox.",
        {"embed_in": "token_embd", "final_layer_norm": "output_norm"},
        "layers.",
        {
            "input_layernorm": "attn_norm",
            "attention.query_key_value": "attn_qkv",
            "attention.dense": "attn_output",
            "post_attention_layernorm": "ffn_norm",
            "mlp.dense_h_to_4h": "ffn_up",
            "mlp.dense_4h_to_h": "ffn_down",
        },
        head="embed_out",
    ),
    "falcon": Names(
        "transformer.",
        {"word_embeddings": "token_embd", "ln_f": "output_norm"},
        "h.",
        {
            "input_layernorm": "attn_norm",
            "ln_mlp": "attn_norm",
            "ln_attn": "attn_norm_2",
            "self_attention.query_key_value": "attn_qkv",
            "self_attention.dense": "attn_output",
            "post_attention_layernorm": "ffn_norm",
            "mlp.dense_h_to_4h": "ffn_up",
            "mlp.dense_4h_to_h": "ffn_down",
        },
    ),
}
