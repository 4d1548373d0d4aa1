"""How large the processor's largest cache is."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm_backends.cpu import cache


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (["32K", "32K", "1024K", "32768K"], 32 << 20),
        (["32K", "2M"], 2 << 20),
        (["junk", ""], 0),
        ([], 0),
    ],
)
def test_the_largest_counts(
    sizes: list[str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index, size in enumerate(sizes):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    monkeypatch.setattr(cache, "CACHES", tmp_path)
    assert cache.cache_bytes() == expected
