"""Twenty thousand mutated model files: each is read or refused, in bounded time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import small_models

from edgellm import tokenizer
from edgellm.errors import FormatError

COUNT = 20_000
CHILD = Path(__file__).with_name("hostile_child.py")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_hostile_files_raise_nothing_but_format_errors(tmp_path: Path) -> None:
    command = [sys.executable, str(CHILD), str(tmp_path), str(COUNT), "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    failures = "\n\n".join(
        f"input {failure['input']} ({failure['kind']}): {failure['outcome']}\n{failure['text']}"
        for failure in report["failures"]
    )
    assert not failures, failures
    outcomes = report["outcomes"]
    assert sum(sum(kind.values()) for kind in outcomes.values()) == COUNT
    for kind in ("gguf", "safetensors", "config.json", "tokenizer.json"):
        assert outcomes[kind]["refused"] > 500, kind
        assert outcomes[kind]["read"] > 20, kind


def vocabulary(token: int, text: str) -> tokenizer.TokenizerData:
    """A small SentencePiece vocabulary, one of whose tokens has another text."""
    tokens, scores, types = zip(*small_models.spm_tokens(), strict=True)
    tokens = (*tokens[:token], text, *tokens[token + 1 :])
    return tokenizer.TokenizerData("llama", tokens=tokens, scores=scores, types=types)


def test_two_tokens_of_one_text_are_no_obstacle() -> None:
    found = tokenizer.make(vocabulary(4, "<0x00>"))
    assert found.decode(found.encode("the lamp")).strip() == "the lamp"


def test_a_byte_token_must_name_its_byte() -> None:
    with pytest.raises(FormatError, match="byte token 4 is '<0xZZ>'"):
        tokenizer.make(vocabulary(4, "<0xZZ>"))
