"""Which files a model consists of, and whether they have changed."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from edgellm import model_files
from edgellm.errors import UsageError

MODELS = Path(__file__).parent / "data" / "models"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    file = tmp_path / "model.gguf"
    file.write_bytes(bytes(range(256)) * 1000)
    return file


def test_a_file_is_alone_unless_it_is_a_part(tmp_path: Path, model: Path) -> None:
    assert model_files.of(model) == [model]
    parts = [tmp_path / f"big-0000{number}-of-00002.gguf" for number in (1, 2)]
    others = [tmp_path / f"{name}-00001-of-00002.gguf" for name in ("bigger", "a")]
    for file in (*parts, *others):
        file.write_text(file.name)
    assert model_files.of(parts[1]) == parts


def test_of_a_folder_what_is_read_counts(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "README.md", "a.edge", "chat.jinja"):
        (tmp_path / name).write_text(name)
    names = [file.name for file in model_files.of(tmp_path)]
    assert names == ["chat.jinja", "config.json", "model.safetensors"]


def test_a_model_is_itself_wherever_it_lies(tmp_path: Path, model: Path) -> None:
    before = model_files.identity(model)
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(model, tmp_path / "elsewhere" / "model.gguf")
    assert model_files.identity(Path(moved)) == before


@pytest.mark.parametrize("change", ["first byte", "length", "time", "name"])
def test_a_change_makes_it_another(model: Path, change: str) -> None:
    before, about = model_files.identity(model), model.stat()
    if change == "name":
        model = model.rename(model.with_name("other.gguf"))
    elif change == "first byte":
        model.write_bytes(b"\1" + model.read_bytes()[1:])
        os.utime(model, ns=(about.st_atime_ns, about.st_mtime_ns))
    elif change == "length":
        model.write_bytes(model.read_bytes() + b"\0")
        os.utime(model, ns=(about.st_atime_ns, about.st_mtime_ns))
    else:
        os.utime(model, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    assert model_files.identity(model) != before


def test_the_hash_is_that_of_other_tools(model: Path) -> None:
    seen: list[int] = []
    assert model_files.sha256(model, seen.append) == hashlib.sha256(model.read_bytes()).hexdigest()
    assert sum(seen) == model.stat().st_size
    folder = model_files.sha256(MODELS / "llama")
    assert len(folder) == 64
    assert folder != model_files.sha256(MODELS / "gpt2")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for ask in (model_files.identity, model_files.sha256):
        with pytest.raises(UsageError, match="nowhere"):
            ask(tmp_path / "nowhere")


def test_a_copy_is_like_its_original(tmp_path: Path, model: Path) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(model.read_bytes())
    os.utime(copy, ns=(1, 1))
    likeness = model_files.likeness(model)
    assert model_files.likeness(copy) == likeness
    for place in (0, len(model.read_bytes()) - 1):
        data = bytearray(model.read_bytes())
        data[place] ^= 1
        copy.write_bytes(data)
        assert model_files.likeness(copy) != likeness
    copy.write_bytes(model.read_bytes() + b"\0")
    assert model_files.likeness(copy) != likeness
    with pytest.raises(UsageError, match=r"none\.gguf: No such file"):
        model_files.likeness(tmp_path / "none.gguf")
