"""Perplexity and importances of small models, against their definitions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_models import write_gguf
from toy_executor import BOS, ToyTokenizer

import edgellm
from edgellm import checkpoint, cli, gguf, perplexity, runtime
from edgellm.errors import UsageError

TEXT = "the lamp in the lamp is the lamp; " * 12


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.gguf"
    write_gguf(path, "lfm2")
    return path


class WithoutBos(ToyTokenizer):
    bos = None

    def encode(
        self, text: str, add_special: bool = False, parse_special: bool = False
    ) -> list[int]:
        return super().encode(text, False, parse_special)


def test_windows_begin_with_bos_and_leave_the_rest_out() -> None:
    pieces = perplexity.windows(ToyTokenizer(), "abcdefghij", 4)
    assert pieces == [[BOS, *b"abc"], [BOS, *b"efg"]]
    assert perplexity.windows(WithoutBos(), "abcdefghij", 4) == [[*b"abcd"], [*b"efgh"]]
    assert perplexity.windows(WithoutBos(), "abcde", 9) == [[*b"abcde"]]
    with pytest.raises(UsageError, match="3 tokens"):
        perplexity.windows(WithoutBos(), "abc", 9)


def test_perplexity_is_the_exponential_of_the_mean_surprise(path: Path) -> None:
    with edgellm.load(path) as model:
        found = perplexity.measure(model, TEXT, 16)
        surprises = []
        for piece in perplexity.windows(model.tokenizer, TEXT, 16):
            logits = model.logits(piece).astype(np.float64)
            logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
            surprises += [-logits[at, piece[at + 1]] for at in range(8, 15)]
    assert found.value == pytest.approx(np.exp(np.mean(surprises)), rel=1e-6)
    assert (found.tokens, found.window) == (len(surprises), 16)
    assert 0 < found.error < found.value


@pytest.mark.usefixtures("cpu")
def test_importances_are_the_mean_squares_of_what_matrices_get(path: Path) -> None:
    from edgellm import importance

    opened = checkpoint.open(path)
    _, tokenizer = runtime.read(path, exact=True)
    found = importance.measure(opened, tokenizer, TEXT[:150])
    pieces = perplexity.windows(tokenizer, TEXT[:150], opened.config.context)
    assert set(found) == {
        name
        for name, tensor in opened.tensors.items()
        if len(tensor.shape) == 2 and name.startswith("blk.") and "conv.conv" not in name
    }
    # Of the first layer's input, which is the normed embedding.
    embedding = opened.tensors["token_embd.weight"].float32()[np.array(pieces)]
    size = np.sqrt(np.square(embedding).mean(axis=-1, keepdims=True) + opened.config.norm_eps)
    inputs = embedding / size * opened.tensors["blk.0.attn_norm.weight"].float32()
    expected = np.square(inputs).mean(axis=(0, 1))
    np.testing.assert_allclose(found["blk.0.shortconv.in_proj.weight"], expected, rtol=1e-4)


def test_quantize_reports_tensors_and_perplexity(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    made = tmp_path / "made.gguf"
    given = ["--text", str(text), "--calibrate", str(text), "--json"]
    assert cli.main(["quantize", str(path), str(made), "q4_0", *given]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["bytes"] < about["bytes_before"]
    assert about["perplexity"]["value"] != about["perplexity_before"]["value"]
    assert gguf.read(made).tensors["blk.1.attn_q.weight"].type == "Q4_0"
    assert cli.main(["perplexity", str(made), str(text), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == about["perplexity"]
    assert cli.main(["quantize", str(path), str(made), "q8_0"]) == 0
    assert "tensors changed" in capsys.readouterr().out


def test_a_place_where_no_file_can_be_is_refused_before_the_work(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["quantize", str(path), str(tmp_path / "no" / "made.gguf"), "Q8_0"]) == 2
    assert "give the name of a file in a folder that is there" in capsys.readouterr().err
