"""What may import what, what must not be imported at start-up, and how long a module may be."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = sorted((ROOT / "edgellm").rglob("*.py"))
OURS = [*CORE, *sorted((ROOT / "backends").rglob("*.py")), *sorted((ROOT / "plugins").glob("*.py"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HEAVY = {"tinygrad", "serial", "numpy", "regex", "jinja2", "msgpack", "asyncio", "pluggy"}
HELP_S = 0.15


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def loaded_by(*arguments: str) -> set[str]:
    """Top-level modules that an `edgellm` command line leaves imported."""
    code = (
        "import sys; from edgellm.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(*{m.partition('.')[0] for m in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return set(done.stderr.splitlines()[-1].split())


def test_the_core_never_names_a_plugin() -> None:
    plugins = ("edgellm_backends", "edgellm_plugins", "edgellm_boards")
    guilty = {shown(path) for path in CORE if any(n.startswith(plugins) for n in imported(path))}
    assert not guilty


def test_only_the_command_line_knows_the_verbs() -> None:
    verbs = ("edgellm.cli.", "edgellm.commands.")
    guilty = {
        shown(path) for path in CORE if any(f"{n}.".startswith(verbs) for n in imported(path))
    }
    allowed = {"edgellm/cli.py", "edgellm/__main__.py"}
    assert {path for path in guilty if not path.startswith("edgellm/commands/")} <= allowed


def test_no_module_is_longer_than_400_lines() -> None:
    lengths = {shown(path): len(path.read_text().splitlines()) for path in OURS}
    assert not {path: length for path, length in lengths.items() if length > 400}


def test_only_declared_packages_are_imported() -> None:
    allowed = {"tinygrad", "pluggy", "msgpack", "serial", "cobs", "numpy", "regex", "jinja2"}
    allowed |= {"edgellm"}
    allowed |= {"cryptography"}  # an extra, imported where keys are made and used
    allowed |= {"llguidance"}  # an extra, imported where answers are constrained
    allowed |= {"llama_cpp"}  # the peer of `edgellm bench --vs`, imported in a process of its own
    allowed |= sys.stdlib_module_names
    foreign = {
        f"{shown(path)}: {name}"
        for path in OURS
        for name in imported(path)
        if name.partition(".")[0] not in allowed
        and not name.startswith(("edgellm_backends", "edgellm_plugins"))
    }
    assert not foreign


@pytest.mark.parametrize(
    ("folder", "package"), [("backends", "edgellm_backends"), ("plugins", "edgellm_plugins")]
)
def test_each_plugin_has_its_entry_point(folder: str, package: str) -> None:
    groups = PROJECT["project"]["entry-points"].values()
    declared = {target for group in groups for target in group.values()}
    there = {
        f"{package}.{path.stem}" for path in (ROOT / folder).glob("*.py") if path.stem[0] != "_"
    }
    there |= {
        f"{package}.{path.parent.name}"
        for path in (ROOT / folder).glob("*/__init__.py")
        if "hookimpl" in path.read_text()  # others are what several plugins share
    }
    assert there == {target for target in declared if target.startswith(f"{package}.")}


def test_every_package_is_installed() -> None:
    mapping = PROJECT["tool"]["setuptools"]["package-dir"]
    folders = {"edgellm": "edgellm", **mapping}
    there = {
        ".".join([package, *init.parent.relative_to(ROOT / folder).parts])
        for package, folder in folders.items()
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert there == set(PROJECT["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_imports_next_to_nothing(arguments: list[str]) -> None:
    assert not loaded_by(*arguments) & HEAVY


def test_plugins_imports_neither_tinygrad_nor_serial() -> None:
    assert not loaded_by("plugins") & {"tinygrad", "serial"}


def test_info_reads_the_header_without_tinygrad() -> None:
    loaded = loaded_by("info")
    assert "numpy" in loaded  # so a model was opened
    assert not loaded & {"tinygrad", "serial", "jinja2", "asyncio"}


def test_help_is_fast() -> None:
    """Processor time, since waiting for a busy machine says nothing; the best of three."""
    times = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-m", "edgellm", "--help"], capture_output=True, check=True)
        after = os.times()
        user = after.children_user - before.children_user
        times.append(user + after.children_system - before.children_system)
    assert min(times) <= HELP_S
