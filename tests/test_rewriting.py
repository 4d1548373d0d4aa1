"""GGUF files written anew: quantised, or with adapters in their weights."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from random_adapters import random_adapter
from small_models import write_gguf

from edgellm import checkpoint, gguf, mixture, quant, quantiser
from edgellm.errors import FitError, UnsupportedError, UsageError
from edgellm.gguf import rewriting
from edgellm.gguf.file import GGUFFile


@pytest.fixture
def floats(tmp_path: Path) -> GGUFFile:
    """A model with weights of 32 bits, and some of 16."""
    write_gguf(tmp_path / "small.gguf", "llama")
    file = gguf.read(tmp_path / "small.gguf")
    random = np.random.default_rng(3)
    tensors = {
        name: (tensor.float32() + random.normal(size=tensor.shape) / 100).astype(np.float32)
        for name, tensor in file.tensors.items()
    }
    tensors["blk.0.ffn_up.weight"] = tensors["blk.0.ffn_up.weight"].astype(np.float16)
    gguf.write(tmp_path / "floats.gguf", file.metadata, tensors)
    return gguf.read(tmp_path / "floats.gguf")


@pytest.mark.parametrize("file_type", mixture.FILE_TYPES)
def test_a_quantised_file_has_the_types_values_and_words_that_it_should(
    file_type: str, floats: GGUFFile, tmp_path: Path
) -> None:
    told: list[tuple[str, int, int]] = []
    path = tmp_path / "made.gguf"
    progress = lambda *event: told.append(event)  # noqa: E731
    reports = rewriting.quantise(floats, path, file_type, progress=progress)
    made = gguf.read(path)
    kinds = mixture.types(file_type, "llama", floats.tensors)
    assert list(made.tensors) == list(floats.tensors) == [report.name for report in reports]
    for report in reports:
        tensor, before = made.tensors[report.name], floats.tensors[report.name]
        assert tensor.type == report.after == kinds.get(report.name, before.type)
        assert (report.before, report.nbytes) == (before.type, tensor.nbytes)
        difference = tensor.float32() - before.float32()
        error = np.sqrt(np.square(difference).mean() / np.square(before.float32()).mean())
        assert report.error == pytest.approx(error, rel=1e-4, abs=1e-9)
        if report.after != report.before:
            expected = quantiser.quantise(report.after, before.float32())
            assert bytes(tensor.data) == expected.tobytes()
    assert made.metadata["general.file_type"] == mixture.FILE_TYPES[file_type].number
    same = set(floats.metadata) - {"general.file_type"}
    assert all(str(made.metadata[key]) == str(floats.metadata[key]) for key in same)
    assert told[-1][1] == told[-1][2]
    checkpoint.open(path)


def test_pieces_are_joined_without_a_seam(
    floats: GGUFFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, pieces = tmp_path / "whole.gguf", tmp_path / "pieces.gguf"
    rewriting.quantise(floats, whole, "Q4_0")
    monkeypatch.setattr(rewriting, "PIECE", 100)
    rewriting.quantise(floats, pieces, "Q4_0")
    assert whole.read_bytes() == pieces.read_bytes()


def test_importances_count(floats: GGUFFile, tmp_path: Path) -> None:
    name = "blk.1.attn_q.weight"
    weights = np.ones(floats.tensors[name].shape[1], np.float32)
    weights[3] = 1000
    rewriting.quantise(floats, tmp_path / "plain.gguf", "Q4_0")
    rewriting.quantise(floats, tmp_path / "weighed.gguf", "Q4_0", {name: weights})
    values = floats.tensors[name].float32()
    plain, weighed = (
        np.square(gguf.read(tmp_path / f"{label}.gguf").tensors[name].float32() - values)
        for label in ("plain", "weighed")
    )
    assert weighed[:, 3].sum() < 0.5 * plain[:, 3].sum()


def test_quantised_weights_are_quantised_again_only_on_demand(tmp_path: Path) -> None:
    write_gguf(tmp_path / "small.gguf", "llama")
    file = gguf.read(tmp_path / "small.gguf")
    with pytest.raises(UnsupportedError, match=r"Q4_0.*--allow-requantize"):
        rewriting.quantise(file, tmp_path / "made.gguf", "Q8_0")
    assert not (tmp_path / "made.gguf").exists()
    rewriting.quantise(file, tmp_path / "made.gguf", "Q8_0", requantise=True)
    assert gguf.read(tmp_path / "made.gguf").tensors["blk.0.attn_q.weight"].type == "Q8_0"


def test_what_cant_be_written_is_refused(
    floats: GGUFFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="that is the model itself"):
        rewriting.quantise(floats, Path(floats.path), "Q8_0")
    with pytest.raises(UsageError, match="there are Q8_0, Q4_0, Q4_K_M, Q6_K"):
        rewriting.quantise(floats, tmp_path / "made.gguf", "Q1_0")
    with pytest.raises(UsageError, match="No such file or directory"):
        rewriting.quantise(floats, tmp_path / "nowhere" / "made.gguf", "Q8_0")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rewriting, "write", full)
    with pytest.raises(FitError, match="no room left"):
        rewriting.quantise(floats, tmp_path / "made.gguf", "Q8_0")


def test_merged_weights_are_the_base_s_and_the_adapters(floats: GGUFFile, tmp_path: Path) -> None:
    base = checkpoint.open(floats.path)
    adapters = [
        random_adapter(base, "pirate", seed=1),
        random_adapter(base, "terse", seed=2, only="attn_q"),
    ]
    reports = rewriting.merge(floats, tmp_path / "merged.gguf", adapters)
    made = gguf.read(tmp_path / "merged.gguf")
    for report in reports:
        expected = floats.tensors[report.name].float32().copy()
        for one in adapters:
            if report.name in one.matrices:
                expected += one.matrices[report.name].change()
        tensor = made.tensors[report.name]
        assert tensor.type == floats.tensors[report.name].type
        tolerance = 1e-5 if tensor.type == "F32" else 1e-2
        np.testing.assert_allclose(tensor.float32(), expected, atol=tolerance)
    assert made.metadata["general.name"] == "small llama + pirate + terse"
    names = made.metadata["edgellm.adapters"]
    assert isinstance(names, list)
    assert names[0] == f"pirate {adapters[0].digest()} MIT"
    checkpoint.open(tmp_path / "merged.gguf")


def test_quantised_weights_keep_their_type_when_merged(tmp_path: Path) -> None:
    write_gguf(tmp_path / "small.gguf", "llama")
    file = gguf.read(tmp_path / "small.gguf")
    made = random_adapter(checkpoint.open(tmp_path / "small.gguf"), only="blk.0.ffn_up")
    (report,) = [
        report for report in rewriting.merge(file, tmp_path / "merged.gguf", [made]) if report.error
    ]
    assert (report.name, report.after) == ("blk.0.ffn_up.weight", "Q4_0")
    assert 0.01 < report.error < 0.2


def test_bf16_rounds_to_nearest_even_and_keeps_what_is_no_number() -> None:
    values = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, -1e-40, np.inf, -np.inf, np.nan], np.float32)
    found = quant.dequantise("BF16", quant.quantise("BF16", values), values.shape)
    assert found[:3].tolist() == [1, 1, 1 + 2**-6]
    np.testing.assert_array_equal(found[4:], values[4:])
