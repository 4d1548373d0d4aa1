"""What a GGUF file's keys become, and which are refused."""

from __future__ import annotations

import numpy as np
import pytest

from edgellm.config import Config, Yarn
from edgellm.errors import FormatError, UnsupportedError
from edgellm.gguf.families import config_from_gguf
from edgellm.tensor import MappedTensor

KEYS = {
    "block_count": 6,
    "context_length": 64,
    "embedding_length": 32,
    "attention.head_count": 4,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.layer_norm_epsilon": 1e-5,
}


def tensor(name: str, *shape: int) -> MappedTensor:
    values = np.ones(shape, np.float32)
    return MappedTensor(name, shape, "F32", memoryview(values.tobytes()))


def config(architecture: str, /, *tensors: MappedTensor, **keys: object) -> Config:
    """The Config of a file with KEYS and `keys`, where __ stands for a dot and None for absence."""
    given = {**KEYS, **{name.replace("__", "."): value for name, value in keys.items()}}
    metadata: dict[str, object] = {"general.architecture": architecture}
    metadata |= {f"{architecture}.{k}": v for k, v in given.items() if v is not None}
    needed = [tensor("token_embd.weight", 100, 32), tensor("blk.0.ffn_down.weight", 32, 48)]
    return config_from_gguf("m.gguf", metadata, {t.name: t for t in [*needed, *tensors]})


def test_a_plain_llama() -> None:
    llama = config("llama", attention__head_count_kv=2, rope__freq_base=5e5)
    assert (llama.vocab, llama.dim, llama.hidden, llama.head_dim) == (100, 32, 48, 8)
    assert [layer.kv_heads for layer in llama.layers] == [2] * 6
    assert llama.rope_style == "pair"
    assert llama.ropes[0].theta == 5e5
    assert llama.norm == "rms"
    assert llama.norm_eps == 1e-6


def test_layers_that_take_turns() -> None:
    gemma = config("gemma3", attention__sliding_window=8, rope__freq_base=1e6)
    assert [layer.window for layer in gemma.layers] == [8, 8, 8, 8, 8, 0]
    assert [gemma.ropes[layer.rope or 0].theta for layer in gemma.layers] == [1e4] * 5 + [1e6]
    assert [layer.window for layer in config("gemma2", attention__sliding_window=8).layers] == [
        *(8, 0, 8, 0, 8, 0)
    ]
    assert [layer.rope for layer in config("smollm3").layers] == [0, 0, 0, None, 0, 0]
    pattern = [True, False] * 3
    listed = config(
        "gemma2", attention__sliding_window=4, attention__sliding_window_pattern=pattern
    )
    assert [layer.window for layer in listed.layers] == [4, 0] * 3


def test_convolutions_are_known_by_their_tensors() -> None:
    lfm = config(
        "lfm2",
        tensor("blk.1.shortconv.conv.weight", 32, 3),
        attention__head_count_kv=[2, 0, 2, 2, 2, 2],
        shortconv__l_cache=3,
    )
    assert [layer.kind for layer in lfm.layers] == ["attention", "conv"] + ["attention"] * 4


def test_what_only_the_name_or_the_tensors_tell() -> None:
    metadata = {f"gpt2.{key}": value for key, value in KEYS.items()}
    tensors = [tensor("token_embd.weight", 100, 32), tensor("blk.0.ffn_down.weight", 32, 48)]
    for name, activation in (("gpt2", "gelu_tanh"), ("Cerebras-GPT 111M", "gelu")):
        metadata |= {"general.architecture": "gpt2", "general.name": name}
        found = config_from_gguf("m.gguf", metadata, {t.name: t for t in tensors})
        assert found.activation == activation
    assert config("stablelm").parallel
    assert not config("stablelm", tensor("blk.0.ffn_norm.weight", 32)).parallel
    assert not config("gptneox", use_parallel_residual=False).parallel
    assert config("granite", rope__scaling__finetuned=False).position == "none"


def test_scalings_of_positions() -> None:
    linear = config("llama", rope__scaling__type="linear", rope__scaling__factor=4.0)
    assert linear.ropes[0].scale == 4.0
    assert config("llama", rope__scale_linear=2.0).ropes[0].scale == 2.0
    yarn = config(
        "qwen2",
        rope__scaling__type="yarn",
        rope__scaling__factor=4.0,
        rope__scaling__original_context_length=16,
    )
    assert yarn.ropes[0].yarn == Yarn(4.0, 16)
    assert yarn.ropes[0].magnitude == pytest.approx(1.1386294)
    llama3 = config("llama", tensor("rope_freqs.weight", 4))
    assert llama3.ropes[0].factors == (1.0,) * 4


def test_granite_lists_keys_that_mean_nothing_for_a_dense_model() -> None:
    plain = config("granite")
    listed = config("granite", expert_count=0, ssm__conv_kernel=4, feed_forward_length=96)
    assert listed == plain


@pytest.mark.parametrize(
    ("architecture", "keys", "culprit"),
    [
        ("mamba", {}, "general.architecture"),
        ("llama", {"expert_count": 8}, "llama.expert_count"),
        ("llama", {"attention__new_trick": 1}, "llama.attention.new_trick"),
        ("llama", {"rope__scaling__type": "ntk"}, "llama.rope.scaling.type"),
        ("llama", {"attention__causal": False}, "llama.attention.causal"),
        ("llama", {"attention__value_length": 4}, "llama.attention.value_length"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    architecture: str, keys: dict[str, object], culprit: str
) -> None:
    with pytest.raises(UnsupportedError, match=culprit) as caught:
        config(architecture, **keys)
    assert caught.value.file == "m.gguf"


@pytest.mark.parametrize("key", ["block_count", "context_length", "embedding_length"])
@pytest.mark.parametrize("value", [None, 0, -1, 2**63, "4", 1.5, True, [1]])
def test_sizes_are_checked(key: str, value: object) -> None:
    with pytest.raises(FormatError, match=f"llama.{key}"):
        config("llama", **{key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention__head_count", 0),
        ("attention__head_count_kv", [1, 2]),
        ("attention__head_count_kv", [-1] * 6),
        ("attention__head_count_kv", 5),
        ("attention__head_count_kv", 3),
        ("attention__head_count_kv", [2, 2, 2, 2, 2, 0]),
        ("attention__layer_norm_rms_epsilon", float("nan")),
        ("rope__dimension_count", 3),
        ("rope__dimension_count", 10),
        ("rope__freq_base", -1.0),
        ("attention__sliding_window_pattern", [True]),
        ("use_parallel_residual", 1),
    ],
)
def test_values_are_checked(key: str, value: object) -> None:
    with pytest.raises(FormatError, match=f"llama.{key.replace('__', '.')}"):
        config("llama", **{key: value})


def test_factors_are_checked() -> None:
    with pytest.raises(FormatError, match=r"shape of rope_freqs\.weight"):
        config("llama", tensor("rope_freqs.weight", 5))
    zero = MappedTensor("rope_freqs.weight", (4,), "F32", memoryview(bytes(16)))
    with pytest.raises(FormatError, match=r"rope_freqs\.weight"):
        config("llama", zero)
