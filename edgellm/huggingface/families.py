"""The families of config.json: their defaults, and its keys in their spellings of all years."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal

from edgellm.huggingface.rope import Defaults

Activation = Literal["silu", "gelu", "gelu_tanh", "relu2"]

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu2": "relu2",
}


@dataclass(frozen=True)
class Bias:
    """Matrices that have one: where the flag is set, or always."""

    matrices: tuple[str, ...]
    flag: str = ""
    default: bool = False


QUERY_KEY_VALUE = ("attn_q", "attn_k", "attn_v")
ATTENTION_BIAS = Bias((*QUERY_KEY_VALUE, "attn_output"), "attention_bias")
MLP_BIAS = Bias(("ffn_gate", "ffn_up", "ffn_down"), "mlp_bias")
FUSED_ATTENTION = ("attn_qkv", "attn_output")
PLAIN_MLP = ("ffn_up", "ffn_down")
CONVOLUTION = ("shortconv.conv", "shortconv.in_proj", "shortconv.out_proj")


@dataclass(frozen=True)
class Family:
    """One model_type: its name in GGUF, and what its configuration says where the file doesn't."""

    architecture: str
    norm: Literal["rms", "layer"] = "rms"
    eps: float = 1e-6
    activation: str = "silu"
    biases: tuple[Bias, ...] = ()
    head_dim: int = 0
    """0: hidden_size / num_attention_heads."""
    expansion: int = 0
    """The feed-forward block is so many times as wide as the model; 0: the file must say it."""
    context: int = 2048
    position: Literal["rope", "learned"] = "rope"
    rope: Defaults = field(default_factory=Defaults)
    rope_style: Literal["half", "pair"] = "half"
    parallel: bool = False
    tied: bool = False
    """Whether the output matrix is the embedding."""
    windowed: Literal["never", "all", "switch", "alternate"] = "never"
    """Which layers attend to `sliding_window` where layer_types doesn't say: none, all, those from
    max_window_layers on if use_sliding_window is set, or all but every n-th."""
    window: int = 0
    period: int = 0
    scaled_embedding: bool = False
    """Embeddings are multiplied by sqrt(hidden_size)."""
    logit_softcap: float = 0.0


LLAMA = Family("llama", biases=(ATTENTION_BIAS, MLP_BIAS))
GEMMA = Family(
    "gemma2",
    activation="gelu_pytorch_tanh",
    biases=(ATTENTION_BIAS,),
    head_dim=256,
    context=8192,
    tied=True,
    windowed="alternate",
    window=4096,
    period=2,
    scaled_embedding=True,
    logit_softcap=30.0,
)

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": Family("llama", windowed="all", window=4096),
    "gpt2": Family(
        *("gpt2", "layer", 1e-5, "gelu_new", (Bias((*FUSED_ATTENTION, *PLAIN_MLP)),)),
        expansion=4,
        context=1024,
        position="learned",
        tied=True,
    ),
    "gptj": Family(
        *("gptj", "layer", 1e-5, "gelu_new", (Bias((*PLAIN_MLP, "output")),)),
        expansion=4,
        rope_style="pair",
        parallel=True,
    ),
    "gpt_neox": Family(
        *("gptneox", "layer", 1e-5, "gelu"),
        biases=(Bias(PLAIN_MLP), Bias(FUSED_ATTENTION, "attention_bias", True)),
        rope=Defaults(partial=0.25),
        parallel=True,
    ),
    "stablelm": Family(
        *("stablelm", "layer", 1e-5, "silu", (Bias(QUERY_KEY_VALUE, "use_qkv_bias"),)),
        context=4096,
        rope=Defaults(partial=0.25),
    ),
    "falcon": Family(
        *("falcon", "layer", 1e-5, "gelu", (Bias((*FUSED_ATTENTION, *PLAIN_MLP), "bias"),)),
        expansion=4,
        parallel=True,
        tied=True,
    ),
    "qwen2": Family(
        "qwen2", biases=(Bias(QUERY_KEY_VALUE),), context=32768, windowed="switch", window=4096
    ),
    "qwen3": Family(
        "qwen3",
        biases=(ATTENTION_BIAS,),
        head_dim=128,
        context=32768,
        windowed="switch",
        window=4096,
    ),
    "gemma2": GEMMA,
    "gemma3_text": replace(
        GEMMA,
        architecture="gemma3",
        context=131072,
        rope=Defaults(theta=1e6, local_theta=1e4),
        period=6,
        logit_softcap=0.0,
    ),
    "phi3": Family("phi3", eps=1e-5, context=4096, rope=Defaults(partial=1.0), windowed="all"),
    "granite": replace(LLAMA, architecture="granite"),
    "granitemoehybrid": Family("granite", biases=(ATTENTION_BIAS,)),
    "smollm3": Family(
        "smollm3",
        biases=(ATTENTION_BIAS, MLP_BIAS),
        context=32768,
        rope=Defaults(theta=2e6),
        tied=True,
        windowed="switch",
    ),
    "lfm2": Family(
        "lfm2",
        eps=1e-5,
        biases=(Bias(CONVOLUTION, "conv_bias"),),
        context=128000,
        rope=Defaults(theta=1e6),
        tied=True,
    ),
    "bitnet": Family(
        "bitnet",
        eps=1e-5,
        activation="relu2",
        biases=(ATTENTION_BIAS,),
        rope=Defaults(theta=5e5),
    ),
}

# Names that families had before transformers took them in.
MODEL_TYPES = {
    "RefinedWeb": "falcon",
    "RefinedWebModel": "falcon",
    "stablelm_epoch": "stablelm",
}

# Other spellings of a key; the first that a file has counts.
SPELLINGS = {
    "hidden_size": ("n_embd", "n_embed"),
    "num_hidden_layers": ("n_layer",),
    "num_attention_heads": ("n_head",),
    "num_key_value_heads": ("num_kv_heads", "n_head_kv"),
    "max_position_embeddings": ("n_positions", "n_ctx", "max_sequence_length"),
    "intermediate_size": ("n_inner", "ffn_hidden_size"),
    "norm_eps": ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"),
    "hidden_act": ("activation_function", "activation"),
    "partial_rotary_factor": ("rotary_pct", "rope_pct"),
    "rope_theta": ("rotary_emb_base", "theta"),
    "layer_types": ("layers_block_type",),
    "sliding_window_pattern": ("_sliding_window_pattern",),
    "tie_word_embeddings": ("tie_embedding",),
}

# Keys that don't touch the forward pass: how to train, to cache, to sample, to save and to load.
IRRELEVANT = re.compile(
    r"_.*|.*_token_ids?|.*dropout|.*_pdrop|initializer_.*|init_method|.*_init_scale|.*xavier_init"
    r"|model_type|architectures|transformers.*|torch_dtype|dtype|torchscript|use_cache|auto_map"
    r"|cache_implementation|attn_implementation|use_bfloat16|pretraining_tp|gradient_checkpointing"
    r"|output_(attentions|hidden_states|scores|router_logits)|(use_)?return_dict.*|is_decoder"
    r"|summary_.*|task_specific_params|problem_type|finetuning_task|id2label|label2id|num_labels"
    r"|tokenizer_class|prefix|vocab_file|custom_pipelines|is_llama_config|unsloth_.*|jax|onnx"
    r"|do_sample|temperature|top_k|top_p|typical_p|num_beams|num_beam_groups|diversity_penalty"
    r"|(repetition|length)_penalty|.*no_repeat_ngram_size|early_stopping|(max|min)_length"
    r"|num_return_sequences|bad_words_ids|remove_invalid_values|chunk_size_feed_forward"
    r"|reorder_and_upcast_attn|max_window_layers|router_.*|mamba_.*|time_step_limit|num_heads"
    r"|block_(dim|norm_eps)|conv_dim(_out)?|num_ln_in_parallel_attn|multi_query|no_rope_layer.*"
)
# Keys that every family may have with the value that means "as usual".
USUAL: dict[str, object] = {
    "scale_attn_weights": True,
    "rotary": True,
    "use_pos_enc": True,
    "block_use_swiglu": True,
    "normalization_function": "rmsnorm",
    "full_attn_mod": 1,
    "interpolate_factor": 1,
    "rotary_scaling_factor": 1,
}
