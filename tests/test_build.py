"""backends/cpu/build.py: models that kernels have no room for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgellm import checkpoint
from edgellm.bundle_writer import BundleWriter
from edgellm.errors import UnsupportedError
from edgellm_backends.cpu import build, target

LLAMA = Path(__file__).parent / "data" / "models" / "llama" / "model.gguf"


def test_heads_that_attention_has_no_room_for(tmp_path: Path) -> None:
    opened = checkpoint.open(LLAMA)
    wide = replace(opened, config=replace(opened.config, head_dim=build.MAX_HEAD_DIM + 1))
    with (
        BundleWriter(tmp_path / "x.edge") as writer,
        pytest.raises(UnsupportedError, match="head_dim is 4097; up to 4096 channels"),
    ):
        build.build(wide, target.TARGETS[0], writer, None)
