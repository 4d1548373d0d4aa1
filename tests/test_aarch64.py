"""Bundles built here for 64-bit Arm, run by Debian's Python for it under an emulator.

`make emulation` gets that Python; without it these tests are skipped. With EDGELLM_FAMILIES=all
every family of tests/data/models runs on every target, else a few of them on each.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import arm_code
import emulation
import numpy as np
import pytest
import small_models
from emulation import Machine
from kernel_process import PROCESSORS

import edgellm
from edgellm import bundle, cli
from edgellm.errors import BackendError
from edgellm.key_folder import KeyFolder
from edgellm_backends.cpu import library, target

ROOT = emulation.root_folder()  # before tests are given folders of their own
MODELS = Path(__file__).parent / "data" / "models"
EVERY = sorted(folder.name for folder in MODELS.iterdir())
FEW = {
    "cortex-a53": ("gpt2", "lfm2", "falcon_rw"),
    "cortex-a72": ("bitnet", "gemma3"),
    "cortex-a76": ("gemma2", "phi3_longrope", "gptj"),
    "i8mm": ("qwen3", "stablelm_2_12b"),
}
FAMILIES = dict.fromkeys(FEW, EVERY) if os.environ.get("EDGELLM_FAMILIES") == "all" else FEW
CONFIDENT, AGREEMENT, ERROR = 0.05, 0.97, 0.04
"""Margins and errors are shares of a position's range of logits."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    qemu = emulation.emulator()
    if qemu is None:
        pytest.skip("qemu's emulation of aarch64 programs is not installed")
    if not ROOT.is_dir():
        pytest.skip("there is no aarch64 Python to emulate; get it: python tests/emulation.py")
    project = tmp_path_factory.mktemp("project")
    emulation.copy_project(project)
    return Machine(qemu, ROOT, project)


def build(model: Path | None, name: str, out: Path) -> None:
    """Build a bundle for a target; skips without a compiler."""
    try:
        library.toolchain(target.find(name))
    except BackendError as error:
        pytest.skip(str(error))
    given = [] if model is None else [str(model)]
    assert cli.main(["build", *given, "--target", name, "-o", str(out)]) == 0


def logits(machine: Machine, name: str, folder: Path) -> None:
    """Run bundle_logits.py there, on a target's plainest processor."""
    program = Path(__file__).with_name("bundle_logits.py")
    done = machine.python(program, folder, cpu=PROCESSORS[name], timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", FAMILIES)
def test_families(machine: Machine, name: str, tmp_path: Path) -> None:
    for family in FAMILIES[name]:
        source = MODELS / family
        file = source / "model.gguf"
        build(file if file.exists() else source, name, tmp_path / f"{family}.edge")
        np.save(tmp_path / f"{family}.tokens.npy", np.load(source / "reference.npz")["tokens_2"])
    logits(machine, name, tmp_path)
    for family in FAMILIES[name]:
        exact = np.load(MODELS / family / "reference.npz")["logits_2"]
        found = np.load(tmp_path / f"{family}.logits.npy")
        extent = np.ptp(exact, axis=1)
        runner_up, best = np.sort(exact, axis=1)[:, -2:].T
        confident = best - runner_up > CONFIDENT * extent
        agreeing = exact.argmax(axis=1) == found.argmax(axis=1)
        assert agreeing[confident].mean() >= AGREEMENT, family
        assert (np.abs(found - exact).max(axis=1) / extent).max() <= ERROR, family


@pytest.mark.parametrize("name", FEW)
def test_quantised_models_compute_what_they_do_here(
    machine: Machine, name: str, tmp_path: Path
) -> None:
    tokens = list(range(3, 43))
    expected = {}
    for architecture in ("llama", "gemma3"):
        file = tmp_path / f"{architecture}.gguf"
        small_models.write_gguf(file, architecture)
        build(file, name, file.with_suffix(".edge"))
        np.save(tmp_path / f"{architecture}.tokens.npy", tokens)
        with edgellm.load(file) as model:
            expected[architecture] = model.logits(tokens)
    logits(machine, name, tmp_path)
    for architecture, here in expected.items():
        there = np.load(tmp_path / f"{architecture}.logits.npy")
        np.testing.assert_allclose(there, here, atol=1e-3 * np.ptp(here))


@pytest.mark.parametrize("name", FEW)
def test_a_library_has_no_instruction_that_its_target_lacks(name: str, tmp_path: Path) -> None:
    file = tmp_path / "llama.gguf"
    small_models.write_gguf(file, "llama")
    build(file, name, tmp_path / "llama.edge")
    opened = bundle.open(tmp_path / "llama.edge", KeyFolder())
    made = bytes(opened.blob("library"))
    assert (arm_code.count(made, "sdot") > 0) == (name in ("cortex-a76", "i8mm"))
    assert (arm_code.count(made, "smmla") > 0) == (name == "i8mm")


def test_a_chat_without_compiler_and_tinygrad(machine: Machine, tmp_path: Path) -> None:
    build(None, "cortex-a53", tmp_path / "default.edge")
    absent = machine.python(
        "-c", "import importlib.util as u; print(u.find_spec('tinygrad'), u.find_spec('ziglang'))"
    )
    assert absent.stdout.split() == ["None", "None"], absent.stderr
    assert not [
        command
        for command in ("cc", "clang", "gcc", "zig")
        if shutil.which(command, path=ROOT / "usr/bin")
    ]
    done = machine.python(
        *("-m", "edgellm", "chat", tmp_path / "default.edge"),
        cpu="cortex-a53",
        answer="turn on the lamp\n",
    )
    assert done.returncode == 0, done.stderr
    assert "lamp" in done.stdout


def test_a_processor_that_lacks_instructions_is_told(machine: Machine, tmp_path: Path) -> None:
    build(None, "cortex-a76", tmp_path / "default.edge")
    done = machine.python("-m", "edgellm", "chat", tmp_path / "default.edge", cpu="cortex-a72")
    assert done.returncode == 1, done.stdout
    assert "asimddp" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_here_it_is_told_that_the_machine_is_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "cortex-a72" if target.machine() == "x86_64" else "avx2"
    build(None, name, tmp_path / "default.edge")
    assert cli.main(["chat", str(tmp_path / "default.edge")]) == 1
    assert f"this machine is {target.machine()}" in capsys.readouterr().err
