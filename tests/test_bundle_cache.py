"""The cache of bundles: what is found again, and what goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import small_bundle

from edgellm import bundle_cache
from edgellm.executor import Target
from edgellm.key_folder import KeyFolder


class Kiln:
    """What a cache asks of a backend."""

    name = "kiln"
    baked = "clay"

    def target(self) -> Target:
        return Target("stone", "any")

    def recipe(self) -> str:
        return self.baked


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    file = tmp_path / "model.gguf"
    file.write_text("a model")
    return file


def put(place: Path, age: int = 0) -> Path:
    """Write a bundle to a place in the cache that was last used `age` seconds ago."""
    small_bundle.write_bundle(place, KeyFolder())
    used = place.stat().st_mtime - age
    os.utime(place, (used, used))
    return place


def test_a_bundle_is_found_until_it_is_damaged(model: Path) -> None:
    place = bundle_cache.place(model, Kiln())
    assert bundle_cache.find(place) is None
    put(place, age=1000)
    before = place.stat().st_mtime
    assert bundle_cache.find(place) is not None
    assert place.stat().st_mtime > before  # so it is known that it was used
    place.write_bytes(place.read_bytes()[:-1])
    assert bundle_cache.find(place) is None
    assert not place.exists()


def test_what_another_machine_has_built_is_built_anew(model: Path, tmp_path: Path) -> None:
    place = bundle_cache.place(model, Kiln())
    small_bundle.write_bundle(place, KeyFolder(tmp_path / "another"))
    assert bundle_cache.find(place) is None
    assert not place.exists()


def test_model_and_recipe_make_the_place(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = bundle_cache.place(model, Kiln())
    assert bundle_cache.place(model, Kiln()) == place
    monkeypatch.setattr(Kiln, "baked", "mud")
    other = bundle_cache.place(model, Kiln())
    assert other != place
    assert other.name.partition("-")[0] == place.name.partition("-")[0]
    model.write_text("another model")
    assert bundle_cache.place(model, Kiln()).name.partition("-")[0] != other.name.partition("-")[0]


def test_what_is_superseded_or_too_much_goes(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bundle_cache.folder()
    old, oldest, newer = (
        put(folder / f"{n}-x.edge", age) for n, age in (("a", 5), ("b", 9), ("c", 1))
    )
    superseded, place = put(folder / "d-x.edge", age=2), put(folder / "d-y.edge")
    assert [entry.path for entry in bundle_cache.entries()] == [
        place,
        newer,
        superseded,
        old,
        oldest,
    ]
    monkeypatch.setattr(bundle_cache, "MAX_BYTES", 3 * place.stat().st_size)
    bundle_cache.tidy(place)
    assert {entry.path for entry in bundle_cache.entries()} == {place, newer, old}
    monkeypatch.setattr(bundle_cache, "MAX_BYTES", 1)
    bundle_cache.tidy(place)
    assert [entry.path for entry in bundle_cache.entries()] == [place]
    assert bundle_cache.describe(place) == "small (small.gguf) for any"
    assert bundle_cache.clear() == 1
    assert bundle_cache.entries() == []
