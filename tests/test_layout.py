"""Which tensors a model must have, may have and must not have."""

from __future__ import annotations

import numpy as np
import pytest

from edgellm import layout
from edgellm.config import Config, Layer
from edgellm.errors import FormatError, UnsupportedError
from edgellm.tensor import MappedTensor

CONFIG = Config("llama", 10, 8, 2, 4, 12, 16, (Layer(kv_heads=1),))
SHAPES: dict[str, tuple[int, ...]] = {
    "token_embd.weight": (10, 8),
    "output_norm.weight": (8,),
    "blk.0.attn_norm.weight": (8,),
    "blk.0.attn_q.weight": (8, 8),
    "blk.0.attn_k.weight": (4, 8),
    "blk.0.attn_v.weight": (4, 8),
    "blk.0.attn_output.weight": (8, 8),
    "blk.0.ffn_gate.weight": (12, 8),
    "blk.0.ffn_up.weight": (12, 8),
    "blk.0.ffn_down.weight": (8, 12),
}


def check(**changes: tuple[int, ...] | None) -> None:
    """Check SHAPES with changes: __ stands for a dot, None takes a tensor away."""
    shapes = {**SHAPES, **{k.replace("__", "."): v for k, v in changes.items()}}
    tensors = {
        name: MappedTensor(name, shape, "F32", memoryview(bytes(4 * int(np.prod(shape)))))
        for name, shape in shapes.items()
        if shape is not None
    }
    layout.check("m.gguf", CONFIG, tensors)


def test_the_usual_tensors_pass() -> None:
    check()
    check(rope_freqs__weight=(2,), output__weight=(10, 8), blk__0__attn_q__bias=(8,))


def test_factors_of_matrices_pass() -> None:
    check(blk__0__attn_q__scale=(1,), blk__0__ffn_up__scale=())
    with pytest.raises(FormatError, match=r"shape of blk\.0\.attn_q\.scale"):
        check(blk__0__attn_q__scale=(8,))


@pytest.mark.parametrize("shape", [(4,), (2, 4)])
def test_norms_of_heads_are_shared_or_not_with_their_biases(shape: tuple[int, ...]) -> None:
    name = "blk__0__attn_q_norm__"
    check(**{f"{name}weight": shape, f"{name}bias": shape})
    with pytest.raises(FormatError, match=r"shape of blk\.0\.attn_q_norm\.bias"):
        check(**{f"{name}weight": shape, f"{name}bias": (4,) if shape == (2, 4) else (2, 4)})


def test_fused_forms_pass() -> None:
    check(
        blk__0__attn_q__weight=None,
        blk__0__attn_k__weight=None,
        blk__0__attn_v__weight=None,
        blk__0__attn_qkv__weight=(16, 8),
        blk__0__ffn_gate__weight=None,
        blk__0__ffn_up__weight=(24, 8),
    )


@pytest.mark.parametrize(
    "name", ["blk__0__ffn_gate_inp__weight", "blk__1__attn_norm__weight", "blk__x", "foo"]
)
def test_an_unknown_tensor_is_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedError, match=name.replace("__", ".")):
        check(**{name: (8,)})


@pytest.mark.parametrize("name", [n for n in SHAPES if n.endswith(("q.weight", "down.weight"))])
def test_a_missing_tensor_is_named(name: str) -> None:
    with pytest.raises(FormatError, match=name):
        check(**{name.replace(".", "__"): None})


@pytest.mark.parametrize("name", SHAPES)
def test_a_wrong_shape_is_named(name: str) -> None:
    with pytest.raises(FormatError, match=f"shape of {name}"):
        check(**{name.replace(".", "__"): (3, 3)})
