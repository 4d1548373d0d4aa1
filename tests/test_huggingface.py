"""Hugging Face folders: config.json of all years, tensors under GGUF's names, template, origin."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgellm import checkpoint
from edgellm.config import Config, Layer, Rope
from edgellm.errors import FormatError, UnsupportedError, UsageError
from edgellm.huggingface import config as configurations
from edgellm.huggingface import read
from edgellm.huggingface.folder import template

MODELS = Path(__file__).parent / "data" / "models"
FAMILIES = sorted(path.name for path in MODELS.iterdir())
WITH_GGUF = sorted(path.parent.name for path in MODELS.glob("*/model.gguf"))
UNREADABLE = Path("/proc/self/mem")
"""Not even for root, as far as it begins."""

Values = dict[str, Any]


def content(family: str) -> Values:
    values: Values = json.loads((MODELS / family / "config.json").read_text())
    return values


def parse(values: Values) -> Config:
    return configurations.read("config.json", values)[0]


LLAMA: Values = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
}


# --- config.json ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", WITH_GGUF)
def test_folder_and_gguf_file_give_the_same_config(family: str) -> None:
    ours = checkpoint.open(MODELS / family).config
    other = checkpoint.open(MODELS / family / "model.gguf").config
    assert [(layer.kind, layer.kv_heads, layer.window) for layer in ours.layers] == [
        (layer.kind, layer.kv_heads, layer.window) for layer in other.layers
    ]
    for name in ("vocab", "dim", "heads", "head_dim", "hidden", "context", "norm", "position"):
        assert getattr(ours, name) == getattr(other, name), name
    assert ours.parallel == other.parallel
    assert ours.activation == other.activation
    assert ours.conv_taps == other.conv_taps
    for name in ("norm_eps", "attn_softcap", "logit_softcap", "embed_scale", "residual_scale"):
        assert getattr(ours, name) == pytest.approx(getattr(other, name)), name
    scales = [config.attn_scale or config.head_dim**-0.5 for config in (ours, other)]
    assert scales[0] == pytest.approx(scales[1])
    for mine, others in zip(ours.ropes, other.ropes, strict=True):
        assert (mine.dim, mine.theta, mine.scale) == (others.dim, others.theta, others.scale)
        assert mine.factors == pytest.approx(others.factors)
        assert mine.long_factors == pytest.approx(others.long_factors)
        assert mine.yarn == others.yarn
        assert mine.magnitude == pytest.approx(others.magnitude)


OLD_SPELLINGS: list[tuple[str, Values, Values]] = [
    ("llama", {"rope_theta": 10000.0, "rope_scaling": None}, {"rope_parameters": None}),
    (
        "llama3",
        {
            "rope_theta": 500.0,
            "rope_scaling": {
                "type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
        {"rope_parameters": None},
    ),
    (
        "llama_linear",
        {"rope_theta": 10000, "rope_scaling": {"type": "linear", "factor": 2.5}},
        {"rope_parameters": None},
    ),
    (
        "gpt_neox",
        {"rotary_pct": 0.25, "rotary_emb_base": 10000},
        {"rope_parameters": None, "use_parallel_residual": None, "attention_bias": None},
    ),
    (
        "gpt_neox_sequential",
        {"rotary_pct": 1.0, "rotary_emb_base": 10000},
        {"rope_parameters": None},
    ),
    (
        "stablelm",
        {"partial_rotary_factor": 0.25, "rope_theta": 10000},
        {"rope_parameters": None, "use_parallel_residual": None, "qk_layernorm": None},
    ),
    (
        "stablelm",
        {"model_type": "stablelm_epoch", "rope_pct": 0.25, "norm_eps": 1e-5},
        {"rope_parameters": None, "layer_norm_eps": None},
    ),
    (
        "gpt2",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
        {"n_embd": None, "n_layer": None, "n_head": None, "n_inner": None},
    ),
    (
        "falcon_7b",
        {"model_type": "RefinedWebModel", "n_head": 4, "n_layer": 2},
        {
            "num_attention_heads": None,
            "num_hidden_layers": None,
            "num_kv_heads": None,
            "rope_parameters": None,
            "ffn_hidden_size": None,
            "new_decoder_architecture": None,
        },
    ),
    (
        "falcon_40b",
        {"model_type": "RefinedWeb", "n_head": 4, "n_head_kv": 2},
        {"num_attention_heads": None, "num_kv_heads": None, "new_decoder_architecture": None},
    ),
    (
        "gemma3",
        {
            "rope_theta": 1000000.0,
            "rope_local_base_freq": 10000.0,
            "sliding_window_pattern": 6,
            "hidden_act": "gelu",
        },
        {"rope_parameters": None, "layer_types": None, "_sliding_window_pattern": None},
    ),
    ("gemma2", {}, {"rope_parameters": None, "layer_types": None}),
    (
        "phi3_longrope",
        {
            "rope_theta": 10000.0,
            "original_max_position_embeddings": 32,
            "rope_scaling": {
                "type": "su",
                "short_factor": [1.0, 1.125, 1.25, 1.375],
                "long_factor": [1.0, 2.0, 3.0, 4.0],
            },
        },
        {"rope_parameters": None},
    ),
    (
        "phi4_mini",
        {
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 32,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0, 1.125, 1.25],
                "long_factor": [1.0, 2.0, 3.0],
            },
            "full_attn_mod": 1,
            "interpolate_factor": 1,
        },
        {"rope_parameters": None},
    ),
    ("smollm3", {"rope_theta": 2e6}, {"no_rope_layers": None, "layer_types": None}),
    ("granite_4", {"layers_block_type": ["attention"] * 2}, {"layer_types": None}),
    (
        "lfm2",
        {
            "full_attn_idxs": [1],
            "block_ff_dim": 48,
            "intermediate_size": 999,
            "theta": 1e6,
            "tie_embedding": True,
        },
        {"layer_types": None, "rope_parameters": None, "tie_word_embeddings": None},
    ),
    ("bitnet", {"rope_theta": 500000.0}, {"rope_parameters": None}),
]


@pytest.mark.parametrize(("family", "said", "left_out"), OLD_SPELLINGS)
def test_old_spellings_mean_the_same(family: str, said: Values, left_out: Values) -> None:
    new = content(family)
    old = {key: value for key, value in new.items() if key not in left_out} | said
    assert parse(old) == parse(new)


PUBLISHED: dict[str, tuple[Values, Values]] = {
    "TinyLlama-1.1B": (
        {
            **{"architectures": ["LlamaForCausalLM"], "attention_bias": False, "bos_token_id": 1},
            **{"eos_token_id": 2, "hidden_act": "silu", "hidden_size": 2048},
            **{"initializer_range": 0.02, "intermediate_size": 5632, "model_type": "llama"},
            **{"max_position_embeddings": 2048, "num_attention_heads": 32, "pretraining_tp": 1},
            **{"num_hidden_layers": 22, "num_key_value_heads": 4, "rms_norm_eps": 1e-05},
            **{"rope_scaling": None, "rope_theta": 10000.0, "tie_word_embeddings": False},
            **{"torch_dtype": "bfloat16", "transformers_version": "4.35.0", "use_cache": True},
            "vocab_size": 32000,
        },
        {"head_dim": 64, "context": 2048},
    ),
    "SmolLM2-135M": (
        {
            **{"architectures": ["LlamaForCausalLM"], "hidden_size": 576, "is_llama_config": True},
            **{"intermediate_size": 1536, "max_position_embeddings": 8192, "model_type": "llama"},
            **{"num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3},
            **{"rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_theta": 100000},
            **{"tie_word_embeddings": True, "vocab_size": 49152, "rope_scaling": None},
            "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
        },
        {"head_dim": 64, "ropes": (Rope(dim=64, theta=100000.0, original_context=8192),)},
    ),
    "Qwen2.5-0.5B": (
        {
            **{"attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645},
            **{"hidden_act": "silu", "hidden_size": 896, "intermediate_size": 4864},
            **{"max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2"},
            **{"num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2},
            **{"rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768},
            **{"tie_word_embeddings": True, "use_mrope": False, "use_sliding_window": False},
            "vocab_size": 151936,
        },
        {"layers": (Layer(kv_heads=2),) * 24},
    ),
    "pythia-70m": (
        {
            **{"architectures": ["GPTNeoXForCausalLM"], "classifier_dropout": 0.1},
            **{"hidden_act": "gelu", "hidden_size": 512, "intermediate_size": 2048},
            **{"layer_norm_eps": 1e-05, "max_position_embeddings": 2048, "vocab_size": 50304},
            **{"model_type": "gpt_neox", "num_attention_heads": 8, "num_hidden_layers": 6},
            **{"rotary_emb_base": 10000, "rotary_pct": 0.25, "use_parallel_residual": True},
        },
        {"parallel": True, "ropes": (Rope(dim=16, original_context=2048),)},
    ),
    "gpt2": (
        {
            **{"activation_function": "gelu_new", "attn_pdrop": 0.1, "embd_pdrop": 0.1},
            **{"layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768},
            **{"n_head": 12, "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1},
            **{"summary_type": "cls_index", "summary_use_proj": True, "vocab_size": 50257},
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        },
        {"hidden": 3072, "position": "learned", "activation": "gelu_tanh"},
    ),
    "dolly-v1-6b": (
        {
            **{"activation_function": "gelu_new", "gradient_checkpointing": False},
            **{"layer_norm_epsilon": 1e-05, "model_type": "gptj", "n_embd": 4096, "n_head": 16},
            **{"n_inner": None, "n_layer": 28, "n_positions": 2048, "rotary": True},
            **{"rotary_dim": 64, "scale_attn_weights": True, "vocab_size": 50400},
            "tie_word_embeddings": False,
        },
        {"head_dim": 256, "rope_style": "pair", "ropes": (Rope(dim=64, original_context=2048),)},
    ),
    "falcon-rw-1b": (
        {
            **{"alibi": True, "apply_residual_connection_post_layernorm": False, "bias": True},
            **{"attention_dropout": 0.0, "hidden_dropout": 0.0, "hidden_size": 2048},
            **{"layer_norm_epsilon": 1e-05, "model_type": "falcon", "multi_query": False},
            **{"new_decoder_architecture": False, "num_attention_heads": 32},
            **{"num_hidden_layers": 24, "parallel_attn": False, "vocab_size": 50304},
        },
        {"hidden": 8192, "position": "alibi", "parallel": False, "ropes": ()},
    ),
    "Phi-3-mini-4k": (
        {
            **{"attention_bias": False, "embd_pdrop": 0.0, "hidden_size": 3072},
            **{"auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "model_type": "phi3"},
            **{"intermediate_size": 8192, "max_position_embeddings": 4096, "vocab_size": 32064},
            **{"num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32},
            **{"original_max_position_embeddings": 4096, "rope_scaling": None},
            **{"rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 2047},
        },
        {"layers": (Layer(kv_heads=32, window=2047),) * 32},
    ),
    "LFM2-350M": (
        {
            **{"block_auto_adjust_ff_dim": True, "block_dim": 1024, "block_ff_dim": 6656},
            **{"block_ffn_dim_multiplier": 1.0, "block_mlp_init_scale": 1.0},
            **{"block_multiple_of": 256, "block_norm_eps": 1e-05, "block_out_init_scale": 1.0},
            **{"block_use_swiglu": True, "block_use_xavier_init": True, "conv_L_cache": 3},
            **{"conv_bias": False, "conv_dim": 1024, "conv_dim_out": 1024, "num_heads": 16},
            **{"conv_use_xavier_init": True, "full_attn_idxs": [2, 5, 8, 10, 12, 14]},
            **{"hidden_size": 1024, "max_position_embeddings": 128000, "model_type": "lfm2"},
            **{"norm_eps": 1e-05, "num_attention_heads": 16, "num_hidden_layers": 16},
            **{"num_key_value_heads": 8, "rope_theta": 1000000.0, "theta": 1000000.0},
            **{"tie_embedding": True, "use_pos_enc": True, "vocab_size": 65536},
        },
        {"hidden": 4608, "conv_taps": 3},
    ),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_files_are_understood(model: str) -> None:
    values, expected = PUBLISHED[model]
    config = parse(values)
    assert {name: getattr(config, name) for name in expected} == expected


def test_llama3_scaling_keeps_short_waves_and_stretches_long_ones() -> None:
    [rope] = parse(content("llama3")).ropes
    assert rope.factors[0] == pytest.approx(1.0)
    assert rope.factors[-1] == pytest.approx(8.0)
    assert list(rope.factors) == sorted(rope.factors)


def test_yarn_magnitude_follows_the_factor_unless_given() -> None:
    values = content("qwen2_yarn")
    [rope] = parse(values).ropes
    assert rope.magnitude == pytest.approx(0.1 * math.log(4.0) + 1)
    values["rope_parameters"]["attention_factor"] = 1.5
    assert parse(values).ropes[0].magnitude == 1.5


def test_windows_need_their_switch() -> None:
    values = content("qwen2") | {"sliding_window": 8, "max_window_layers": 1, "layer_types": None}
    assert [layer.window for layer in parse(values).layers] == [0, 0]
    values["use_sliding_window"] = True
    assert [layer.window for layer in parse(values).layers] == [0, 8]


def test_null_is_no_cap_and_a_missing_key_the_default() -> None:
    values = content("gemma2")
    assert parse(values | {"attn_logit_softcapping": None}).attn_softcap == 0.0
    del values["attn_logit_softcapping"]
    assert parse(values).attn_softcap == 50.0


@pytest.mark.parametrize(
    "harmless",
    [
        {"torch_dtype": "float16", "_name_or_path": "x", "eos_token_id": [1, 2]},
        {"something_new": None, "another_new": False, "third_new": []},
        {"transformers_version": "9.9", "cache_implementation": "hybrid", "auto_map": {"a": "b"}},
        {"rope_scaling": None, "quantization_config": None, "normalization_function": "rmsnorm"},
    ],
)
def test_keys_that_change_nothing_are_accepted(harmless: Values) -> None:
    assert parse(LLAMA | harmless) == parse(LLAMA)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("something_new", 1),
        ("sliding_window", 128),
        ("num_experts", 8),
        ("model_type", "mamba"),
        ("hidden_act", "quick_gelu"),
        ("rope_scaling", {"type": "dynamic", "factor": 2.0}),
        ("rope_scaling", {"type": "linear", "factor": 2.0, "novelty": 3}),
        ("quantization_config", {"quant_method": "gptq", "bits": 4}),
        ("layer_types", ["full_attention", "mamba"]),
        ("is_encoder_decoder", True),
        ("partial_rotary_factor", 0.5),
        ("attn_logit_softcapping", 5.0),
        ("interpolate_factor", 2),
    ],
)
def test_what_would_change_the_result_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(UnsupportedError) as caught:
        parse(LLAMA | {key: value})
    assert key.split("_")[0] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", "32"),
        ("hidden_size", -1),
        ("hidden_size", 2**62),
        ("hidden_size", None),
        ("num_hidden_layers", 2**40),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", True),
        ("num_attention_heads", 0),
        ("num_attention_heads", 3),
        ("num_key_value_heads", 3),
        ("vocab_size", [64]),
        ("rms_norm_eps", -1.0),
        ("rope_theta", 0),
        ("rope_scaling", "linear"),
        ("rope_scaling", {"type": "linear", "factor": -1}),
        ("rope_scaling", {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}),
        ("rope_scaling", {"rope_type": "longrope"}),
        ("tie_word_embeddings", 1),
        ("hidden_act", 5),
        ("layer_types", ["full_attention"]),
        ("attention_bias", "yes"),
        ("quantization_config", "none"),
    ],
)
def test_values_of_the_wrong_kind_or_size_are_refused(key: str, value: object) -> None:
    with pytest.raises(FormatError) as caught:
        parse(LLAMA | {key: value})
    assert caught.value.file == "config.json"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["linear", "yarn", "longrope", "llama3", "sliding_attention", "bitnet", ""])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_hostile_values_raise_nothing_but_format_errors(data: st.DataObject) -> None:
    values = content(data.draw(st.sampled_from(FAMILIES)))
    for _ in range(data.draw(st.integers(1, 3))):
        place = values
        key = data.draw(st.sampled_from(sorted(place)))
        while isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
            place = place[key]
            key = data.draw(st.sampled_from(sorted(place)))
        place[key] = data.draw(json_values)
    with contextlib.suppress(FormatError):
        assert 1 <= len(parse(values).layers) <= 1024


# --- tensors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", WITH_GGUF)
def test_folder_and_gguf_file_hold_the_same_tensors(family: str) -> None:
    import gguf_copy

    folder, file = (checkpoint.open(MODELS / family / name) for name in (".", "model.gguf"))
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, tensor in folder.tensors.items():
        tensors |= gguf_copy.rearranged(folder.config, name, tensor.float32())
    stored = {name: tensor for name, tensor in file.tensors.items() if not name.startswith("rope_")}
    assert tensors.keys() == stored.keys()
    for name, tensor in stored.items():
        np.testing.assert_array_equal(tensors[name], tensor.float32(), err_msg=name)


Weights = dict[str, NDArray[Any]]
Edit = Callable[[Weights], object]


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., Path]:
    """A family's folder with changed tensors and settings."""
    from edgellm import safetensors

    codes = {"float32": "F32", "uint8": "U8", "bool": "BOOL"}

    def make(family: str, edit: Edit, **said: object) -> Path:
        shutil.copytree(MODELS / family, tmp_path / "model")
        (tmp_path / "model" / "config.json").write_text(json.dumps(content(family) | said))
        weights: Weights = {
            name: tensor.float32().copy()
            for name, tensor in safetensors.read(MODELS / family / "model.safetensors").items()
        }
        edit(weights)
        header, offset = {}, 0
        for name, values in weights.items():
            end = offset + values.nbytes
            entry = {"dtype": codes[values.dtype.name], "shape": values.shape}
            header[name] = entry | {"data_offsets": [offset, end]}
            offset = end
        raw = json.dumps(header).encode()
        data = b"".join(values.tobytes() for values in weights.values())
        path = tmp_path / "model" / "model.safetensors"
        path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
        return tmp_path / "model"

    return make


def test_unknown_tensors_are_refused_by_name(edited: Callable[..., Path]) -> None:
    folder = edited("llama", lambda w: w.update({"model.surprise.weight": np.zeros(3, np.float32)}))
    with pytest.raises(UnsupportedError, match=r"model\.surprise\.weight"):
        read(folder)


def test_a_bias_that_the_config_denies_is_refused(edited: Callable[..., Path]) -> None:
    name = "model.layers.0.self_attn.q_proj.bias"
    folder = edited("llama", lambda w: w.update({name: np.zeros(32, np.float32)}))
    with pytest.raises(UnsupportedError, match=name):
        read(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_missing_tensors_are_named(family: str, edited: Callable[..., Path]) -> None:
    gone: list[str] = []

    def drop(weights: Weights) -> None:
        rng = np.random.default_rng(len(family))
        gone.append(str(rng.choice(sorted(weights))))
        del weights[gone[0]]

    folder = edited(family, drop)
    with pytest.raises(FormatError, match="tensor ") as caught:
        read(folder)
    assert gone[0] in str(caught.value)


def test_saved_constants_and_tied_copies_are_left_out(edited: Callable[..., Path]) -> None:
    def add(weights: Weights) -> None:
        weights["transformer.h.0.attn.bias"] = np.ones((1, 1, 4, 4), dtype=bool)
        weights["transformer.h.0.attn.masked_bias"] = np.zeros((), dtype=np.float32)
        weights["lm_head.weight"] = weights["transformer.wte.weight"]

    folder = edited("gpt2", add)
    assert read(folder).tensors.keys() == read(MODELS / "gpt2").tensors.keys()


def test_gpt2_names_may_lack_their_prefix(edited: Callable[..., Path]) -> None:
    def strip(weights: Weights) -> None:
        for name in list(weights):
            weights[name.removeprefix("transformer.")] = weights.pop(name)

    assert read(edited("gpt2", strip)).tensors.keys() == read(MODELS / "gpt2").tensors.keys()


@pytest.mark.parametrize(
    ("family", "name", "shape"),
    [
        ("gpt_neox", "gpt_neox.layers.0.attention.query_key_value.weight", (95, 32)),
        ("falcon_40b", "transformer.h.1.self_attention.query_key_value.weight", ()),
        ("lfm2", "model.layers.0.conv.conv.weight", (32, 3)),
        ("stablelm_2_12b", "model.layers.0.self_attn.q_layernorm.norms.1.weight", (9,)),
        ("gpt2", "transformer.h.0.mlp.c_fc.weight", (128,)),
        ("llama", "model.norm.weight", (33,)),
        ("llama", "model.layers.1.mlp.up_proj.weight", (48, 32, 1)),
    ],
)
def test_wrong_shapes_are_refused(
    family: str, name: str, shape: tuple[int, ...], edited: Callable[..., Path]
) -> None:
    folder = edited(family, lambda w: w.update({name: np.zeros(shape, dtype=np.float32)}))
    with pytest.raises(FormatError, match="shape"):
        checkpoint.open(folder)


def test_weights_must_be_floating_point(edited: Callable[..., Path]) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    folder = edited("llama", lambda w: w.update({name: np.zeros((48, 32), dtype=np.uint8)}))
    with pytest.raises(UnsupportedError, match="U8"):
        read(folder)


# --- BitNet's ternary matrices ------------------------------------------------------------------


def in_blocks(weights: Weights) -> list[str]:
    return [name for name in weights if "_proj" in name]


def pack(signs: NDArray[np.float32]) -> NDArray[np.uint8]:
    """As BitNet's own files hold them: row r of each quarter in two bits of packed row r."""
    quarters = np.split((signs + 1).astype(np.uint8), 4)
    packed: NDArray[np.uint8] = sum(
        (part << (2 * index) for index, part in enumerate(quarters)), start=np.uint8(0)
    )
    return packed


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("linear_class", "factor"), [("autobitlinear", 0.25), ("bitlinear", 4.0), (None, 4.0)]
)
def test_ternary_matrices_are_scaled(
    packed: bool, linear_class: str | None, factor: float, edited: Callable[..., Path]
) -> None:
    signs: Weights = {}

    def quantise(weights: Weights) -> None:
        for name in in_blocks(weights):
            signs[name] = np.sign(np.round(weights[name])).astype(np.float32)
            weights[name] = pack(signs[name]) if packed else signs[name]
            weights[f"{name}_scale"] = np.array([0.25], dtype=np.float32)

    said = {"quant_method": "bitnet"} | ({"linear_class": linear_class} if linear_class else {})
    folder = edited("bitnet", quantise, quantization_config=said)
    tensors = checkpoint.open(folder).tensors
    name = "model.layers.1.self_attn.k_proj.weight"
    found = tensors["blk.1.attn_k.weight"]
    assert found.shape == signs[name].shape
    np.testing.assert_array_equal(found.float32(), signs[name] * factor)


def test_ternary_matrices_may_be_made_on_loading(edited: Callable[..., Path]) -> None:
    said = {"quant_method": "bitnet", "linear_class": "autobitlinear"}
    said["quantization_mode"] = "online"
    folder = edited("bitnet", lambda w: None, quantization_config=said)
    plain, ternary = (read(path).tensors for path in (MODELS / "bitnet", folder))
    weight = plain["blk.0.ffn_up.weight"].float32()
    scale = np.abs(weight).mean()
    found = ternary["blk.0.ffn_up.weight"].float32()
    np.testing.assert_allclose(found, np.clip(np.round(weight / scale), -1, 1) * scale, rtol=1e-6)
    np.testing.assert_array_equal(
        ternary["token_embd.weight"].float32(), plain["token_embd.weight"].float32()
    )


def test_a_missing_scale_is_named(edited: Callable[..., Path]) -> None:
    folder = edited("bitnet", lambda w: None, quantization_config={"quant_method": "bitnet"})
    with pytest.raises(FormatError, match="weight_scale"):
        read(folder)


# --- template and origin ------------------------------------------------------------------------


def test_template_comes_from_the_first_file_that_has_one(tmp_path: Path) -> None:
    assert template(tmp_path) is None
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps({"chat_template": "one"}))
    assert template(tmp_path) == "one"
    named = [{"name": "tools", "template": "two"}, {"name": "default", "template": "three"}]
    file.write_text(json.dumps({"chat_template": named}))
    assert template(tmp_path) == "three"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "four"}))
    assert template(tmp_path) == "four"
    (tmp_path / "chat_template.jinja").write_text("five\n")
    assert template(tmp_path) == "five\n"


@pytest.mark.parametrize("said", [5, [], ["x"], [{"name": "x"}], {"default": "x"}])
def test_templates_of_the_wrong_kind_are_refused(tmp_path: Path, said: object) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": said}))
    with pytest.raises(FormatError, match="chat_template"):
        template(tmp_path)


def test_templates_must_be_text_of_bounded_size(tmp_path: Path) -> None:
    path = tmp_path / "chat_template.jinja"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="UTF-8"):
        template(tmp_path)
    path.write_bytes(b"x" * (2 << 20))
    with pytest.raises(FormatError, match="size"):
        template(tmp_path)


def test_origin_comes_from_the_card_and_the_config(edited: Callable[..., Path]) -> None:
    folder = edited("llama", lambda w: None, _name_or_path="maker/small-model")
    found = read(folder).provenance
    assert dataclasses.astuple(found) == ("small-model", "", "maker/small-model", "maker")
    card = "license: apache-2.0\nbase_model: maker/base\ntags:\n- x\n"
    (folder / "README.md").write_text(f"---\n{card}---\n# A model\nlicense: no\n")
    found = read(folder).provenance
    assert (found.licence, found.source) == ("apache-2.0", "maker/base")
    (folder / "README.md").write_text("license: mit\n")
    assert read(folder).provenance.licence == ""


@pytest.mark.skipif(not UNREADABLE.exists(), reason="no file here that nobody can read")
def test_files_that_cannot_be_read(edited: Callable[..., Path]) -> None:
    folder = edited("llama", lambda w: None)
    (folder / "README.md").symlink_to(UNREADABLE)
    assert read(folder).provenance.licence == ""
    (folder / "chat_template.jinja").symlink_to(UNREADABLE)
    with pytest.raises(UsageError, match=r"chat_template.jinja: Input/output error"):
        read(folder)
