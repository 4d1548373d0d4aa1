"""Files of published shapes: the mixtures of types, and that a written file is a sound model."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgellm import checkpoint, quant, shapes, tokenizer
from edgellm.errors import UsageError

PARAMETERS = {  # of the published models
    "stories15m": 15_191_712,
    "smollm2-135m": 134_515_008,
    "qwen2.5-0.5b": 494_032_768,
    "tinyllama-1.1b": 1_100_048_384,
}


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_shapes_have_the_published_number_of_parameters(name: str) -> None:
    found = shapes.tensors(shapes.SHAPES[name], "F16")
    assert sum(int(np.prod(tensor.shape)) for tensor in found) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "kind", "counts"),
    [
        ("tinyllama-1.1b", "Q4_K_M", {"Q4_K": 135, "Q6_K": 21, "F32": 45}),
        ("tinyllama-1.1b", "Q4_0", {"Q4_0": 155, "Q6_K": 1, "F32": 45}),
        (
            "qwen2.5-0.5b",
            "Q4_K_M",
            {"Q5_0": 132, "Q8_0": 13, "Q4_K": 12, "Q6_K": 12, "F32": 121},
        ),
        ("smollm2-135m", "Q4_0", {"Q4_0": 210, "Q8_0": 1, "F32": 61}),
        ("smollm2-135m", "Q8_0", {"Q8_0": 211, "F32": 61}),
        ("stories15m", "F16", {"F16": 43, "F32": 13}),
    ],
)
def test_mixtures_are_those_of_published_files(
    name: str, kind: str, counts: dict[str, int]
) -> None:
    found = shapes.tensors(shapes.SHAPES[name], kind)
    assert Counter(tensor.type for tensor in found) == counts


@pytest.mark.parametrize("kind", ["F16", "Q4_0", "Q5_0", "Q8_0", "Q4_K", "Q6_K", "F32"])
def test_values_have_the_deviation_that_was_asked_for(kind: str) -> None:
    tensor = shapes.RandomTensor("w", (64, 2048), kind, 0.02)
    values = quant.dequantise(kind, tensor.data, tensor.shape)
    assert np.isfinite(values).all()
    assert abs(values.mean()) < 0.002
    assert 0.017 < values.std() < 0.023
    assert np.array_equal(values, quant.dequantise(kind, tensor.data, tensor.shape))


@pytest.mark.parametrize("kind", shapes.FILE_TYPES)
def test_a_written_file_is_a_model(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    shapes.write_shape("stories15m", kind, path)
    model = checkpoint.open(path)
    assert (model.config.dim, len(model.config.layers), model.config.vocab) == (288, 6, 32000)
    assert sum(tensor.nbytes for tensor in model.tensors.values()) < path.stat().st_size


@pytest.mark.parametrize("name", ["stories15m", "smollm2-135m", "qwen2.5-0.5b"])
def test_vocabularies_can_spell_every_text(name: str) -> None:
    shape = shapes.SHAPES[name]
    data = tokenizer.tokenizer_data_from_gguf(shapes.metadata(name, "Q4_0"), "model.gguf")
    assert data is not None
    made = tokenizer.make(data)
    assert made.size == shape.vocab == len(set(data.tokens))
    text = "Hello, the lamp ist 22° — 灯 \n\t off?"
    ids = made.encode(text)
    assert made.decode(ids).strip() == text
    assert len(ids) < len(text.encode())
    assert made.eos in made.eog


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'gpt-5' isn't among stories15m"):
        shapes.write_shape("gpt-5", "Q4_0", tmp_path / "model.gguf")
    with pytest.raises(UsageError, match="'Q3_K_S' isn't among F16"):
        shapes.write_shape("stories15m", "Q3_K_S", tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


def test_the_same_file_comes_out_of_the_command(tmp_path: Path) -> None:
    shapes.write_shape("stories15m", "Q4_0", tmp_path / "a.gguf")
    command = [sys.executable, "-m", "edgellm.shapes", "stories15m", "Q4_0"]
    subprocess.run([*command, str(tmp_path / "b.gguf")], check=True)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    failed = subprocess.run([*command, "/nowhere/c.gguf"], capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr.startswith("edgellm.shapes: ")
    assert failed.stderr.count("\n") == 1
