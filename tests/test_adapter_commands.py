"""Adapters on the command line: --lora, --lora-scaled, and merge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from random_adapters import random_adapter
from small_models import write_gguf

import edgellm
from edgellm import adapter, checkpoint, cli

RAW = ["-no-cnv", "--temp", "0", "-n", "12", "-p", "the lamp"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.gguf"
    write_gguf(path, "llama", layers=1)
    return path


@pytest.fixture(scope="module")
def lora(model: Path) -> Path:
    base = checkpoint.open(model)
    adapter.write_gguf(model.with_name("lora.gguf"), random_adapter(base, "lora"), base)
    return model.with_name("lora.gguf")


def text(model: Path, *adapters: str) -> str:
    with edgellm.load(model, adapters=adapters) as loaded:
        pieces = loaded.generate("the lamp", max_tokens=12)
        return "the lamp" + "".join(piece.text for piece in pieces) + "\n"


@pytest.mark.parametrize("scaled", [False, True], ids=["--lora", "--lora-scaled"])
def test_run_applies_adapters(
    scaled: bool, model: Path, lora: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--lora-scaled", str(lora), "0.5"] if scaled else ["--lora", f"{lora}:0.5"]
    assert cli.main(["run", str(model), *RAW, *given]) == 0
    said = capsys.readouterr().out
    assert said == text(model, f"{lora}:0.5")
    assert said != text(model)


def test_merge_writes_a_model_that_needs_no_adapter(
    model: Path, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "merged.gguf"
    assert cli.main(["merge", str(model), "--lora", str(lora), "-o", str(made)]) == 0
    shown = capsys.readouterr()
    assert "blk.0.attn_q.weight" in shown.out
    assert f"{made} written" in shown.err
    assert checkpoint.open(made).provenance.name == "small llama + lora"


@pytest.mark.parametrize("form", ["gguf", "peft"])
def test_info_tells_where_an_adapter_comes_from(
    form: str, model: Path, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, path = checkpoint.open(model), lora
    if form == "peft":
        path = tmp_path / "lora"
        adapter.write_peft(path, adapter.read(lora, base), base)
    assert cli.main(["info", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["base_sha256"] == adapter.base_sha256(base)
    del found["base_sha256"], found["nbytes"]
    assert found == {
        "format": "adapter",
        "name": "lora",
        "base_name": "small llama",
        "licence": "MIT",
        "origin": "random values, for tests",
        "rank": 4,
        "matrices": 8,
    }
    assert cli.main(["info", str(path)]) == 0
    assert "small llama" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["run", "{model}", "-p", "x", "--lora", "/nowhere.gguf"], 2, "/nowhere.gguf"),
        (["run", "{model}", "-p", "x", "--lora", "{lora}:1e9"], 2, "a strength is a number"),
        (["run", "{model}", "-p", "x", "--lora", "{model}"], 5, "general.type"),
        (["run", "{other}", "-p", "x", "--lora", "{lora}"], 2, "made for 'small llama'"),
        (["merge", "{model}", "-o", "x.gguf"], 2, "no adapter; give one with --lora"),
        (["merge", "{model}", "--lora", "{lora}", "-o", "{model}"], 2, "the model itself"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cant_be_done_is_said_in_one_line(
    arguments: list[str],
    status: int,
    said: str,
    model: Path,
    lora: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_gguf(tmp_path / "other.gguf", "llama", layers=1, seed=9)
    names = {"model": model, "lora": lora, "other": tmp_path / "other.gguf"}
    assert cli.main([word.format(**names) for word in arguments]) == status
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
