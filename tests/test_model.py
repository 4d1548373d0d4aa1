"""The Transformer against the logits of an independent implementation, for every family."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgellm import checkpoint, layout
from edgellm.checkpoint import Checkpoint

MODELS = Path(__file__).parent / "data" / "models"
FAMILIES = sorted(folder.name for folder in MODELS.iterdir())
TOLERANCE = 5e-4

pytestmark = pytest.mark.usefixtures("cpu")


def logits(opened: Checkpoint, tokens: list[int], context: int) -> np.ndarray:
    """The cache-free forward pass, as training uses it."""
    from tinygrad import Tensor

    from edgellm.model import Transformer

    weights = {
        name: Tensor(tensor.float32())
        for name, tensor in opened.tensors.items()
        if name not in layout.TABLES
    }
    transformer = Transformer(opened.config, weights, context)
    hidden = transformer.hidden(Tensor([tokens, tokens]))
    both = transformer.logits(hidden).numpy()
    np.testing.assert_array_equal(both[0], both[1])
    return both[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_sequences_of_a_folder_match_the_reference(family: str) -> None:
    opened = checkpoint.open(MODELS / family)
    reference = np.load(MODELS / family / "reference.npz")
    tokens = reference["tokens_2"].tolist()
    found = logits(opened, tokens, context=32)
    np.testing.assert_allclose(found, reference["logits_2"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", [f for f in FAMILIES if (MODELS / f / "model.gguf").exists()])
def test_a_gguf_file_says_the_same_as_the_folder(family: str) -> None:
    """Same switches, but for those whose other spelling comes with permuted or fused tensors."""
    gguf = checkpoint.open(MODELS / family / "model.gguf").config
    folder = checkpoint.open(MODELS / family).config
    for field in ("vocab", "dim", "heads", "head_dim", "hidden", "layers", "position", "parallel"):
        assert getattr(gguf, field) == getattr(folder, field), field
    for field in ("embed_scale", "residual_scale", "logit_scale", "norm_eps"):
        assert getattr(gguf, field) == pytest.approx(getattr(folder, field), rel=1e-6), field
    scales = [config.attn_scale or config.head_dim**-0.5 for config in (gguf, folder)]
    assert scales[0] == pytest.approx(scales[1], rel=1e-6)


@pytest.mark.parametrize("family", ["phi3_longrope", "phi4_mini"])
def test_longrope_beyond_its_original_context(family: str) -> None:
    opened = checkpoint.open(MODELS / family)
    reference = np.load(MODELS / family / "reference.npz")
    found = logits(opened, reference["tokens_3"].tolist(), context=64)
    np.testing.assert_allclose(found, reference["logits_3"], atol=TOLERANCE, rtol=0)
