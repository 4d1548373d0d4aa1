"""backends/cpu/recipe.py: when builds turn out otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm_backends.cpu import recipe


def test_the_recipe_follows_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kernels" / "libc").mkdir(parents=True)
    monkeypatch.setattr(recipe, "KERNELS", tmp_path / "kernels")
    monkeypatch.setattr(recipe, "__file__", str(tmp_path / "recipe.py"))
    seen = {recipe.recipe()}
    for name in ("library.py", "kernels/a.c", "kernels/a.h", "kernels/libc/a.h"):
        (tmp_path / name).write_text("1")
        seen.add(recipe.recipe())
    (tmp_path / "kernels" / "a.c").write_text("2")
    seen.add(recipe.recipe())
    (tmp_path / "kernels" / "notes.txt").write_text("")
    assert recipe.recipe() in seen
    assert len(seen) == 6
