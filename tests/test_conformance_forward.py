"""edgellm/conformance/forward.py: what judges backends is itself judged by transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgellm import checkpoint, layout
from edgellm.conformance import models
from edgellm.conformance.forward import Forward

MODELS = Path(__file__).parent / "data" / "models"


@pytest.mark.parametrize("folder", sorted(MODELS.iterdir()), ids=lambda folder: folder.name)
def test_a_family_as_transformers_has_it(folder: Path) -> None:
    opened = checkpoint.open(next(folder.glob("*.gguf"), folder))
    reference = np.load(folder / "reference.npz")
    for index, context in ((1, 32), (2, 32), (3, 64)):
        if f"tokens_{index}" in reference:
            found = Forward(opened, context).logits(reference[f"tokens_{index}"].tolist())
            np.testing.assert_allclose(found, reference[f"logits_{index}"], atol=5e-4, rtol=0)


def test_the_models_made_up_have_every_tensor_of_the_layout() -> None:
    """Names and kinds: what no model has, no backend is asked for."""
    made = [models.family(name) for name in models.FAMILIES]
    have = {name.split(".", 2)[-1] for model in made for name in model.tensors}
    allowed = {name.split(".", 2)[-1] for model in made for name in layout.shapes(model.config)}
    rare = {"shortconv", "attn_output.scale"}
    lacking = {name for name in allowed - have if name.split(".")[0] not in rare}
    assert all(name.endswith((".bias", ".scale")) for name in lacking), lacking
