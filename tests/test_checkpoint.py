"""Opening whatever a user names: GGUF, split GGUF, a folder, or something else."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import small_models

from edgellm import checkpoint, gguf, tokenizer
from edgellm.errors import EdgeError, FormatError, UnsupportedError, UsageError


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "phi3", "qwen2", "lfm2"])
def test_a_gguf_file(tmp_path: Path, family: str) -> None:
    path = tmp_path / "model.gguf"
    small_models.write_gguf(path, family)
    found = checkpoint.open(path)
    assert (found.path, found.format) == (str(path), "gguf")
    assert (found.config.architecture, found.config.dim) == (family, small_models.DIM)
    assert found.template == small_models.TEMPLATE
    assert found.provenance == checkpoint.Provenance(
        f"small {family}", "mit", "https://example.org/small", "edgellm's tests"
    )
    assert found.tokenizer is not None
    size = tokenizer.make(found.tokenizer).size
    assert found.tensors["token_embd.weight"].shape == (size, small_models.DIM)


@pytest.mark.parametrize(("family", "spm"), [("llama", True), ("qwen2", False), ("gpt2", False)])
def test_a_folder(tmp_path: Path, family: str, spm: bool) -> None:
    small_models.write_folder(tmp_path, family, spm)
    found = checkpoint.open(str(tmp_path))
    assert found.format == "safetensors"
    assert found.config.dim == small_models.DIM
    assert found.template == small_models.TEMPLATE
    assert found.tokenizer is not None
    assert found.tensors["token_embd.weight"].shape[0] == found.config.vocab


def test_a_folder_of_several_weight_files(tmp_path: Path) -> None:
    small_models.write_folder(tmp_path, "llama")
    whole = checkpoint.open(tmp_path)
    expected = {name: tensor.float32().copy() for name, tensor in whole.tensors.items()}
    small_models.split_weights(tmp_path, 3)
    found = checkpoint.open(tmp_path).tensors
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name].float32(), values)


def test_a_split_model(tmp_path: Path) -> None:
    small_models.write_gguf(tmp_path / "whole.gguf", "llama")
    whole = gguf.read(tmp_path / "whole.gguf")
    names = list(whole.tensors)
    for number, part in enumerate((names[:5], names[5:])):
        metadata = {"split.no": np.uint16(number), "split.count": np.uint16(2)}
        gguf.write(
            tmp_path / f"m-{number + 1:05}-of-00002.gguf",
            {**(whole.metadata if number == 0 else {}), **metadata},
            {name: whole.tensors[name] for name in part},
        )
    found = checkpoint.open(tmp_path / "m-00002-of-00002.gguf")
    assert list(found.tensors) == names
    assert found.config == checkpoint.open(tmp_path / "whole.gguf").config


def test_provenance_takes_the_next_best_key_and_ignores_odd_ones(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    small_models.write_gguf(path, "gpt2")
    found = gguf.read(path)
    metadata = dict(found.metadata)
    for key in ("name", "license", "author", "source.url"):
        del metadata[f"general.{key}"]
    metadata |= {"general.basename": "base", "general.organization": "lab"}
    metadata |= {"general.license": ["mit"], "general.source.repo_url": "https://example.org/r"}
    gguf.write(path.with_name("other.gguf"), metadata, found.tensors)
    provenance = checkpoint.open(path.with_name("other.gguf")).provenance
    assert provenance == checkpoint.Provenance("base", "", "https://example.org/r", "lab")


def test_a_template_that_is_no_string_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    small_models.write_gguf(path, "gpt2")
    found = gguf.read(path)
    metadata = {**found.metadata, "tokenizer.chat_template": 3}
    gguf.write(tmp_path / "other.gguf", metadata, found.tensors)
    with pytest.raises(FormatError, match=r"tokenizer\.chat_template is 3"):
        checkpoint.open(tmp_path / "other.gguf")


def test_an_unknown_tensor_or_architecture_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    small_models.write_gguf(path, "llama")
    found = gguf.read(path)
    extra = {**found.tensors, "blk.0.odd.weight": np.ones(3, np.float32)}
    gguf.write(tmp_path / "tensor.gguf", found.metadata, extra)
    with pytest.raises(UnsupportedError, match=r"blk\.0\.odd\.weight"):
        checkpoint.open(tmp_path / "tensor.gguf")
    gguf.write(tmp_path / "arch.gguf", {**found.metadata, "general.architecture": "rwkv7"}, {})
    with pytest.raises(UnsupportedError, match="rwkv7"):
        checkpoint.open(tmp_path / "arch.gguf")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.gguf", b"", "the file is empty"),
        ("x.gguf", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("x.gguf", b"lmgg" + bytes(60), "older than GGUF"),
        ("x.gguf", b"tjgg" + bytes(60), "older than GGUF"),
        ("x.gguf", b"hello, world, this is no model", "a GGUF file begins with 'GGUF'"),
        ("pytorch_model.bin", b"PK\3\4" + bytes(60), "zip archive"),
        ("consolidated.00.pth", b"\x80\x02}q\x00.", "a pickle"),
        ("model.pt", b"whatever it may be", "a pickle may run code"),
        ("model.safetensors", bytes(60), "name its folder"),
    ],
)
def test_other_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        checkpoint.open(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "config.json is 'missing'; a model folder has that file"),
        (["a.gguf", "b.gguf"], "name the file a.gguf in it"),
        (["config.json"], "model.safetensors is 'missing'"),
        (["config.json", "pytorch_model.bin"], "a pickle may run code"),
        (["config.json", "m.gguf"], "name the file m.gguf in it"),
    ],
)
def test_other_folders_are_named(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(FormatError) as caught:
        checkpoint.open(tmp_path)
    assert message in str(caught.value)


def test_what_is_not_there_or_no_file_is_an_error_of_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        checkpoint.open(tmp_path / "none")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # opening it would wait for ever
    with pytest.raises(UsageError, match="neither a file nor a folder"):
        checkpoint.open(pipe)


def test_every_reference_file_opens(shared: Path) -> None:
    files = sorted((shared / "models").glob("*/*.gguf")) + sorted((shared / "quant").glob("*.gguf"))
    assert len(files) > 15
    for path in files:
        found = checkpoint.open(path)
        assert found.tokenizer is not None
        folder = path.parent
        if (folder / "config.json").exists():
            twin = checkpoint.open(folder)
            assert twin.config.vocab == found.config.vocab
            assert twin.tensors.keys() <= {*found.tensors, "output.weight"}


def test_errors_are_one_line_whatever_the_value() -> None:
    for value in (np.zeros(50), "a\nb" * 100, ["x" * 1000] * 1000, 10**60, b"\n" * 900):
        text = str(FormatError("f", "field", value, "no"))
        assert "\n" not in text
        assert len(text) < 120
    assert issubclass(FormatError, EdgeError)
