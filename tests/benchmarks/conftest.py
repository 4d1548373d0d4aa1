"""A tiny model for the benchmarks: what is measured is our overhead, not the arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_models


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    small_models.write_gguf(path, "llama", layers=2)
    return path
