"""Which type each tensor of a quantised file gets, against llama.cpp's choices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from quantised_models import MODELS, by_part

from edgellm import mixture, shapes

REFERENCE = json.loads((Path(__file__).parent / "data" / "quantised" / "mixtures.json").read_text())


@pytest.mark.parametrize("file_type", mixture.FILE_TYPES)
@pytest.mark.parametrize("name", MODELS)
def test_types_are_those_of_llama_cpp(name: str, file_type: str) -> None:
    shape = MODELS[name]
    tensors = {tensor.name: tensor for tensor in shapes.tensors(shape, "F16")}
    found = mixture.types(file_type, shape.architecture, tensors)
    kinds = {key: found.get(key, tensor.type) for key, tensor in tensors.items()}
    assert by_part(kinds) == REFERENCE[name][file_type]


def test_fused_matrices_and_falcon_have_rules_of_their_own() -> None:
    shape = (256, 256)
    names = [f"blk.{i}.{part}.weight" for i in range(32) for part in ("attn_qkv", "ffn_down")]
    tensors = {
        name: shapes.RandomTensor(name, shape, "F16", 1.0) for name in [*names, "output.weight"]
    }
    falcon = mixture.types("Q4_K_M", "falcon", tensors)
    assert falcon["output.weight"] == "Q8_0"
    assert {falcon[f"blk.{i}.attn_qkv.weight"] for i in range(32)} == {"Q5_K"}
    kinds = [falcon[f"blk.{i}.ffn_down.weight"] for i in range(8)]
    assert kinds == ["Q6_K", "Q6_K", "Q5_K", "Q5_K", "Q4_K", "Q4_K", "Q5_K", "Q4_K"]


def test_with_importances_the_first_layers_of_q4_0_get_a_minimum() -> None:
    names = [f"blk.{i}.ffn_down.weight" for i in range(16)]
    tensors = {name: shapes.RandomTensor(name, (64, 64), "F16", 1.0) for name in names}
    kinds = mixture.types("Q4_0", "llama", tensors, weighed=True)
    assert list(kinds.values()) == ["Q4_1"] * 2 + ["Q4_0"] * 14


def test_what_isnt_a_matrix_of_a_product_stays() -> None:
    names = ("blk.0.attn_q_norm.weight", "position_embd.weight", "blk.0.shortconv.conv.weight")
    tensors = {name: shapes.RandomTensor(name, (64, 64), "F32", 1.0) for name in names}
    tensors["blk.0.attn_q.bias"] = shapes.RandomTensor("blk.0.attn_q.bias", (64,), "F32", 1.0)
    assert mixture.types("Q8_0", "llama", tensors) == {}
