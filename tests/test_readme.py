"""The README tells no lies: hooks, verbs, flags, targets and examples are those of the code."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm import cli
from edgellm.commands.plugins import EPILOG
from edgellm.hookspecs import KINDS
from edgellm.link.lines import COMMANDS
from edgellm.runtime import default_model

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("kind", KINDS)
def test_every_hook_with_its_exact_signature(kind: str) -> None:
    name = f"edgellm_{kind}"
    parameters = [
        str(parameter).replace("'", "")
        for parameter in inspect.signature(getattr(KINDS[kind], name)).parameters.values()
        if parameter.name != "self"
    ]
    returned = inspect.signature(getattr(KINDS[kind], name)).return_annotation
    signature = f"{name}({', '.join(parameters)}) -> {returned}"
    assert f"`{signature.replace('|', chr(92) + '|')}`" in README
    assert f"`edgellm.{kind}s`" in README


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb(verb: str) -> None:
    assert f"| `edgellm {verb}" in README


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_line_mode(command: str) -> None:
    assert re.search(rf"\| .*`/{command}\b", README)


def test_every_target_of_make() -> None:
    targets = set(re.findall(r"^([a-z]+):.*##", MAKEFILE, re.MULTILINE)) - {"help"}
    assert targets == set(re.findall(r"^make ([a-z]+)", README, re.MULTILINE))


def test_every_flag_is_known_to_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(blocks("sh"))
    table = README[README.index("| flag |") : README.index("### Models")]
    flags = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", table))
    flags |= {
        flag
        for line in text.splitlines()
        if line.startswith("edgellm ")
        for flag in re.findall(r"(?<= )--?[a-z][a-z-]*", line.partition("#")[0])
    }
    known: set[str] = set()
    for verb in cli.VERBS:
        with pytest.raises(SystemExit):
            cli.main([verb, "--help"])
        described = re.findall(r"^  (-.*?)(?:   |$)", capsys.readouterr().out, re.MULTILINE)
        known |= set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", " ".join(described)))
    assert len(flags) > 20
    assert flags <= known


def test_the_example_plugin_is_the_one_that_is_tested() -> None:
    folder = ROOT / "tests" / "example_plugin"
    assert (folder / "edgellm_no_digits.py").read_text() in blocks("python")
    assert (folder / "pyproject.toml").read_text() in blocks("toml")


@pytest.mark.usefixtures("cpu")
def test_the_python_interface_does_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """The example, with the built-in model in place of the reader's."""
    (code,) = [code for code in blocks("python") if "edgellm.load(" in code]
    assert '"model.gguf"' in code
    given: dict[str, Any] = {}
    exec(code.replace('"model.gguf"', repr(str(default_model()))), given)
    assert capsys.readouterr().out
    assert given["tokenizer"].decode(given["tokenizer"].encode("Hello")) == "Hello"
    count = len(given["tokenizer"].encode("Hello", add_special=True))
    assert given["logits"].shape == (count, given["model"].config.vocab)
    assert given["logits"].dtype == np.float32
    given["model"].close()


@pytest.mark.usefixtures("cpu")
def test_the_default_model_talks_as_is_shown() -> None:
    (shown,) = [block for block in blocks("text") if block.startswith("> ")]
    lines = shown.strip().splitlines()
    questions = [line.removeprefix("> ") for line in lines[::2]]
    done = subprocess.run(
        [sys.executable, "-m", "edgellm", "chat"],
        input="\n".join(questions),
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == lines[1::2]


def test_every_file_and_folder_that_is_named_is_there() -> None:
    named = set(re.findall(r"`((?:edgellm|tests|backends|plugins|boards|\.ci)/[\w./]*)`", README))
    assert len(named) >= 5
    assert not {path for path in named if not (ROOT / path).exists()}


def test_every_plugin_named_in_the_environment_exists() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    names = {name for group in groups.values() for name in group}
    for listed in re.findall(r"EDGELLM_PLUGINS=([\w,]+)", README + cli.EPILOG + EPILOG):
        assert listed == "a,b" or set(listed.split(",")) <= names


def test_a_chat_works_with_the_plugins_that_are_named(tmp_path: Path) -> None:
    """The command as it stands, in a shell that finds this edgellm."""
    (command,) = [
        line
        for block in blocks("sh")
        for line in block.splitlines()
        if line.startswith("EDGELLM_PLUGINS=")
    ]
    program = tmp_path / "edgellm"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m edgellm "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", command],
        input="turn on the lamp\n",
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "tools" in done.stdout
