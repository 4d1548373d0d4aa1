"""The README tells no lies: hooks, verbs, flags, targets and examples are those of the code."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path

import pytest

from edgellm import cli
from edgellm.hookspecs import KINDS
from edgellm.link.lines import COMMANDS

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


def test_every_flag_is_known_to_the_command_line() -> None:
    text = "\n".join(blocks("sh"))
    table = README[README.index("| flag |") : README.index("### Models")]
    flags = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", table))
    flags |= {
        flag
        for line in text.splitlines()
        if line.startswith("edgellm ")
        for flag in re.findall(r"(?<= )--?[a-z][a-z-]*", line.partition("#")[0])
    }
    known = {
        flag
        for verb in cli.VERBS
        for action in verb_actions(verb)
        for flag in action.option_strings
    }
    assert len(flags) > 20
    assert flags <= known


def verb_actions(verb: str) -> list[object]:
    (verbs,) = [a for a in cli.parser(verb)._actions if a.dest == "verb"]
    return verbs.choices[verb]._actions


def test_the_example_plugin_is_the_one_that_is_tested() -> None:
    folder = ROOT / "tests" / "example_plugin"
    assert (folder / "edgellm_no_digits.py").read_text() in blocks("python")
    assert (folder / "pyproject.toml").read_text() in blocks("toml")


def test_the_python_examples_compile() -> None:
    for code in blocks("python"):
        compile(code, "README.md", "exec")


def test_every_file_and_folder_that_is_named_is_there() -> None:
    named = set(re.findall(r"`((?:edgellm|tests|backends|plugins|boards|\.ci)/[\w./]*)`", README))
    assert len(named) >= 5
    assert not {path for path in named if not (ROOT / path).exists()}


def test_every_plugin_named_in_the_environment_exists() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    names = {name for group in groups.values() for name in group}
    for listed in re.findall(r"EDGELLM_PLUGINS=([\w,]+)", README + cli.EPILOG):
        assert listed == "a,b" or set(listed.split(",")) <= names
