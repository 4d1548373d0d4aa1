"""edgellm/entry_point.py: what importlib.metadata finds, and nothing of broken metadata."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

import pytest

from edgellm import entry_point
from edgellm.entry_point import EntryPoint

GROUP = "edgellm.channels"


def installed(folder: Path, text: str | bytes, name: str = "telegraph-2.5.dist-info") -> Path:
    """Metadata with these entry points."""
    metadata = folder / name
    metadata.mkdir(parents=True)
    content = text.encode() if isinstance(text, str) else text
    (metadata / "entry_points.txt").write_bytes(content)
    return metadata


def test_what_is_installed_is_found_as_python_finds_it() -> None:
    theirs = {
        (point.group, point.name, point.value)
        for distribution in importlib.metadata.distributions()
        for point in distribution.entry_points
    }
    ours = {point[:3] for point in entry_point.find(sys.path)}
    assert ours == theirs
    assert ("edgellm.backends", "cpu", "edgellm_backends.cpu") in ours


def test_lines_are_read_as_the_specification_has_them(tmp_path: Path) -> None:
    text = f"""
# nobody's = comment
[console_scripts]
tap = telegraph.cli : main

[{GROUP}]
telegraph=telegraph
  morse = telegraph.wire:Morse.plugin [audio,serial]
no value
"""
    installed(tmp_path, text)
    found = [point[:3] for point in entry_point.find([str(tmp_path)])]
    assert found == [
        ("console_scripts", "tap", "telegraph.cli : main"),
        (GROUP, "telegraph", "telegraph"),
        (GROUP, "morse", "telegraph.wire:Morse.plugin [audio,serial]"),
    ]


def test_a_module_is_loaded_or_what_is_in_it() -> None:
    def load(value: str) -> object:
        return EntryPoint(GROUP, "x", value, "").load()

    assert load("os.path") is os.path
    assert load("os : path.join [extra]") is os.path.join
    with pytest.raises(ModuleNotFoundError):
        load("no_such_module")
    with pytest.raises(AttributeError):
        load("os:no_such_name")


@pytest.mark.parametrize("name", ["telegraph-2.4.dist-info", "Telegraph.egg-info"])
def test_of_two_distributions_of_one_name_the_first_counts(tmp_path: Path, name: str) -> None:
    """A tree's own metadata beside that of its editable installation, say."""
    installed(tmp_path / "first", f"[{GROUP}]\nnew = telegraph\n")
    installed(tmp_path / "second", f"[{GROUP}]\nold = telegraph\n", name)
    path = [str(tmp_path / "first"), str(tmp_path / "second")]
    assert [point.name for point in entry_point.find(path)] == ["new"]
    assert [point.name for point in entry_point.find(path[::-1])] == ["old"]


def test_what_is_installed_later_is_found_at_once(tmp_path: Path) -> None:
    path = [str(tmp_path)]
    assert list(entry_point.find(path)) == []
    installed(tmp_path, f"[{GROUP}]\nlate = telegraph\n")
    assert [point.name for point in entry_point.find(path)] == ["late"]


def test_broken_metadata_is_passed_over(tmp_path: Path) -> None:
    installed(tmp_path, b"[edgellm.channels]\nbroken = \xff\n", "broken-1.dist-info")
    installed(tmp_path, "[unended\nx = y\n[]\n= \n", "odd-1.dist-info")
    (tmp_path / "none-1.dist-info").mkdir()
    (tmp_path / "file.egg-info").write_text("Name: file\n")
    (tmp_path / "folder-1.dist-info/entry_points.txt").mkdir(parents=True)
    whole = installed(tmp_path, f"[{GROUP}]\nsound = telegraph\n", "sound-1.dist-info")
    path = ["", str(tmp_path / "missing"), str(tmp_path / "file.egg-info"), str(tmp_path)]
    assert EntryPoint(GROUP, "sound", "telegraph", str(whole)) in list(entry_point.find(path))
    assert "broken" not in {point.name for point in entry_point.find(path)}


def test_the_distribution_is_that_of_the_metadata(tmp_path: Path) -> None:
    folder = installed(tmp_path, f"[{GROUP}]\nx = telegraph\n")
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: telegraph\nVersion: 2.5\n")
    (point,) = entry_point.find([str(tmp_path)])
    assert (point.distribution.name, point.distribution.version) == ("telegraph", "2.5")
