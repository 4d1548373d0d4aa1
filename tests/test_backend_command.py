"""edgellm backend: a new one works as it is, and whatever is broken in it is named."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgellm import cli, runtime
from edgellm.conformance.checks import CHECKS
from edgellm.errors import BackendError

ROOT = Path(__file__).resolve().parents[1]
FAULTS = {
    "rope": (
        "transformer.py",
        ("a * cos - b * sin, a * sin + b * cos", "a * cos + b * sin, b * cos - a * sin"),
        ("family llama", "rotary positions turn the wrong way"),
    ),
    "slot": (
        "executor.py",
        ("[layer[slot] for layer in", "[layer[0] for layer in"),
        ("slots", "wrong slot: at position 12 slot "),
    ),
    "position": (
        "transformer.py",
        ("rotate(q.swapaxes(0, 1), layer, start)", "rotate(q.swapaxes(0, 1), layer, start + 1)"),
        ("family llama", "queries are off by one position, too late"),
    ),
    "stale": (
        "transformer.py",
        (
            "past[:keys, start:end] = self.rotate(k.swapaxes(0, 1), layer, start)",
            "here = past[:keys, start:end]\n"
            "        here += (here == 0) * self.rotate(k.swapaxes(0, 1), layer, start)",
        ),
        ("forgetting", "stale memory: a sequence depends on what its slot held before"),
    ),
    "batch": (
        "executor.py",
        ("model.logits(state)", "model.logits(state) * np.float32(1 + 1e-5 * len(tokens))"),
        ("batching", "slot 0 beside 2 others is not what it is alone"),
    ),
    "nan": (
        "executor.py",
        ("model.logits(state)", "np.where(np.arange(259) == 7, np.nan, model.logits(state))"),
        ("shapes", "NaN or infinity in 1 logits of row 0"),
    ),
    "shape": (
        "executor.py",
        (".reshape(len(wanted), self.config.vocab)", ".reshape(self.config.vocab, len(wanted))"),
        ("shapes", "logits have the shape (259, 5); (5, 259) is needed"),
    ),
    "exception": (
        "executor.py",
        ("asked, found = set(wanted), []", "raise RuntimeError('the device is lost')"),
        ("positions", "RuntimeError: the device is lost (executor.py:"),
    ),
    "hang": (
        "executor.py",
        ("asked, found = set(wanted), []", "while True: pass"),
        ("shapes", "hang: no end within 5 s, in executor.py:"),
    ),
    "crash": (
        "executor.py",
        ("asked, found = set(wanted), []", "import os; os.kill(os.getpid(), 11)"),
        ("shapes", "crash: ended by SIGSEGV"),
    ),
    "leak": (
        "executor.py",
        (
            "asked, found = set(wanted), []",
            "asked, found = set(wanted), []\n"
            "        self.__dict__.setdefault('kept', []).append(np.ones(2048))",
        ),
        ("memory", "leak: memory grew by "),
    ),
}
"""Which file, what becomes of which text, and the check that names it with which words."""


def checked(*arguments: object, site: Path | None = None) -> tuple[int, list[dict[str, str]]]:
    """Exit status and rows of `edgellm backend check`."""
    command = [sys.executable, "-m", "edgellm", "backend", "check", *map(str, arguments), "--json"]
    found = {**os.environ, "PYTHONPATH": str(site)} if site else None
    done = subprocess.run(command, capture_output=True, text=True, env=found)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `edgellm backend new mine` writes."""
    folder = tmp_path_factory.mktemp("new") / "edgellm-mine"
    assert cli.main(["backend", "new", "mine", str(folder)]) == 0
    return folder


def programs(folder: Path) -> dict[str, str]:
    """An environment whose `edgellm` is this one, and whose `pip` installs into the folder, without
    network."""
    pip = "-m pip install -q --no-index --no-deps --no-build-isolation --target"
    for name, command in (
        ("edgellm", f'exec {sys.executable} -m edgellm "$@"'),
        ("pip", f'shift; exec {sys.executable} {pip} {folder} "$@"'),
    ):
        program = folder / "programs" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{command}\n")
        program.chmod(0o755)
    path = f"{folder / 'programs'}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}


def test_a_new_backend_is_installed_and_keeps_the_contract(tmp_path: Path) -> None:
    """The commands as the README has them, then the test that comes with it."""
    readme = (ROOT / "README.md").read_text()
    (commands,) = re.findall(r"^```sh\n(edgellm backend new .*?)^```$", readme, re.DOTALL | re.M)
    here = programs(tmp_path)
    done = subprocess.run(
        ["sh", "-ec", commands],
        input="turn on the lamp\n",
        env=here,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *table, answer = done.stdout.splitlines()
    assert table[-1] == f"mine: {len(CHECKS)} passed, 0 failed, 0 declined"
    assert "tools" in answer
    test = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "edgellm-mine"]
    done = subprocess.run(test, env=here, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.usefixtures("cpu")
def test_the_example_backend_is_installed_and_keeps_the_contract(tmp_path: Path) -> None:
    """Some rows: the others' kernels would take minutes to compile."""
    here = programs(tmp_path)
    source = shutil.copytree(ROOT / "tests" / "example_backend", tmp_path / "source")
    subprocess.run(["pip", "install", source], env=here, check=True, capture_output=True)
    rows = ("family llama", "slots", "forgetting", "batching", "errors")
    only = [word for row in rows for word in ("--only", row)]
    status, found = checked("tinygrad", *only, "--limit", 300, site=tmp_path)
    assert status == 0, found
    assert [row["status"] for row in found] == ["passed"] * len(rows)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_broken_is_named(begun: Path, fault: str, tmp_path: Path) -> None:
    file, (sound, broken), (check, words) = FAULTS[fault]
    package = tmp_path / "edgellm_mine"
    package.mkdir()
    for path in (begun / "edgellm_mine").glob("*.py"):
        text = path.read_text()
        if path.name == file:
            assert text.count(sound) == 1
            text = text.replace(sound, broken)
        (package / path.name).write_text(text)
    status, (row,) = checked(package, "--only", check, "--limit", 5 if fault == "hang" else 60)
    assert (status, row["status"]) == (1, "failed")
    assert words in row["words"]


def test_the_cpu_backend_keeps_the_contract() -> None:
    status, rows = checked("cpu", "--quick")
    assert [row["check"] for row in rows] == [check.name for check in CHECKS if check.quick]
    assert not [row for row in rows if row["status"] != "passed"]
    assert status == 0


def test_the_opencl_backend_keeps_the_contract() -> None:
    """Its numbers, family by family and type by type, are compared in tests of its own."""
    try:
        runtime.backend("opencl")
    except BackendError as error:
        pytest.skip(str(error))
    rows = ("slots", "forgetting", "copies", "batching", "errors", "cancel", "serving", "memory")
    status, found = checked("opencl", *(word for row in rows for word in ("--only", row)))
    assert [row["check"] for row in found] == list(rows)
    assert not [row for row in found if row["status"] != "passed"]
    assert status == 0


def test_what_a_backend_declines_is_no_failure(begun: Path, tmp_path: Path) -> None:
    package = tmp_path / "edgellm_mine"
    package.mkdir()
    for path in (begun / "edgellm_mine").glob("*.py"):
        (package / path.name).write_text(path.read_text())
    plugin = package / "__init__.py"
    plugin.write_text(
        plugin.read_text().replace(
            "        from edgellm import layout, packing\n",
            "        from edgellm import layout, packing\n"
            "        from edgellm.errors import UnsupportedError\n"
            "        if checkpoint.config.conv_taps:\n"
            "            raise UnsupportedError(checkpoint.path, 'layer', 'conv', 'none here')\n",
        )
    )
    status, rows = checked(package, "--only", "family lfm2", "--only", "slots")
    assert [row["status"] for row in rows] == ["declined", "passed"]
    assert status == 0


def test_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["backend", "check", "cpu", "--only", "slots"]) == 0
    row, total = capsys.readouterr().out.splitlines()
    assert row.split()[:2] == ["slots", "passed"]
    assert total == "cpu: 1 passed, 0 failed, 0 declined"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "nothing"], "no backend runs on 'nothing'"),
        (["check", "cpu", "--only", "speed"], "no check 'speed'"),
        (["new", "Not-A-Name"], "a backend's name is of a-z"),
        (["new", "mine", "."], "there is something in it"),
    ],
)
def test_what_is_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["backend", *arguments]) in (1, 2)
    assert words in capsys.readouterr().err
