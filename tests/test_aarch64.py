"""Bundles built here for 64-bit Arm, run by Debian's Python for it under an emulator.

`make emulation` gets that Python; without it these tests are skipped. With EDGELLM_FAMILIES=all
every family of tests/data/models runs on every target, else a few of them on each.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import arm_code
import emulation
import numpy as np
import pytest
import small_models
from emulation import Machine
from kernel_process import PROCESSORS
from numpy.typing import NDArray

import edgellm
from edgellm import bundle, cli
from edgellm.errors import BackendError
from edgellm.key_folder import KeyFolder
from edgellm_backends.cpu import library, target

Array = NDArray[np.float32]

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
QUANTISED = ("small_llama", "small_gemma3")  # Q4_0 and Q8_0
TOKENS = list(range(3, 43))
BOARDS = {
    "raspberry-pi-3": "cortex-a53",
    "raspberry-pi-4": "cortex-a72",
    "raspberry-pi-5": "cortex-a76",
}
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


def build(model: Path | None, name: str, out: Path, board: str | None = None) -> Path:
    """Build a bundle for a target, named by a board or itself; skips without a compiler."""
    try:
        library.toolchain(target.find(name))
    except BackendError as error:
        pytest.skip(str(error))
    given = [] if model is None else [str(model)]
    place = ["--board", board] if board else ["--target", name]
    assert cli.main(["build", *given, *place, "-o", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A target's folder of bundles, NAME.edge and NAME.tokens.npy, built when first asked for."""

    @functools.cache
    def built(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        for family in FAMILIES[name]:
            source = MODELS / family
            file = source / "model.gguf"
            build(file if file.exists() else source, name, folder / f"{family}.edge")
            tokens = np.load(source / "reference.npz")["tokens_2"]
            np.save(folder / f"{family}.tokens.npy", tokens)
        for model in QUANTISED:
            file = folder / f"{model}.gguf"
            small_models.write_gguf(file, model.removeprefix("small_"))
            build(file, name, file.with_suffix(".edge"))
            np.save(folder / f"{model}.tokens.npy", TOKENS)
        return folder

    return built


@pytest.fixture(scope="module")
def logits(machine: Machine, bundles: Callable[[str], Path]) -> Callable[[str, str], Array]:
    """What a target's bundle of a model computes there; all of a target's run at once."""

    @functools.cache
    def computed(name: str) -> Path:
        program, folder = Path(__file__).with_name("bundle_logits.py"), bundles(name)
        done = machine.python(program, folder, cpu=PROCESSORS[name])
        assert done.returncode == 0, done.stderr
        return folder

    return lambda name, model: np.load(computed(name) / f"{model}.logits.npy")


@pytest.mark.parametrize(
    ("name", "family"), [(name, family) for name in FAMILIES for family in FAMILIES[name]]
)
def test_families(logits: Callable[[str, str], Array], name: str, family: str) -> None:
    exact = np.load(MODELS / family / "reference.npz")["logits_2"]
    found = logits(name, family)
    extent = np.ptp(exact, axis=1)
    runner_up, best = np.sort(exact, axis=1)[:, -2:].T
    confident = best - runner_up > CONFIDENT * extent
    agreeing = exact.argmax(axis=1) == found.argmax(axis=1)
    assert agreeing[confident].mean() >= AGREEMENT
    assert (np.abs(found - exact).max(axis=1) / extent).max() <= ERROR


@pytest.mark.parametrize("model", QUANTISED)
@pytest.mark.parametrize("name", FAMILIES)
def test_quantised_models_compute_what_they_do_here(
    logits: Callable[[str, str], Array], bundles: Callable[[str], Path], name: str, model: str
) -> None:
    with edgellm.load(bundles(name) / f"{model}.gguf") as opened:
        here = opened.logits(TOKENS)
    np.testing.assert_allclose(logits(name, model), here, atol=1e-3 * np.ptp(here))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_bundle_has_no_instruction_that_its_target_lacks(
    bundles: Callable[[str], Path], name: str
) -> None:
    opened = bundle.open(bundles(name) / f"{QUANTISED[0]}.edge", KeyFolder())
    made = bytes(opened.blob("library"))
    assert (arm_code.count(made, "sdot") > 0) == (name in ("cortex-a76", "i8mm"))
    assert (arm_code.count(made, "smmla") > 0) == (name == "i8mm")


def test_a_processor_that_lacks_instructions_is_told(
    machine: Machine, bundles: Callable[[str], Path]
) -> None:
    """An error of ours, where the bundle's first dot product would end the process."""
    needing = bundles("cortex-a76") / f"{QUANTISED[0]}.edge"
    done = machine.python("-m", "edgellm", "chat", needing, cpu="cortex-a72")
    assert done.returncode == 1, done.stdout
    assert "asimddp" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("board", BOARDS)
def test_a_trained_model_writes_on_a_board_what_llama2_c_does(
    machine: Machine, shared: Path, board: str, tmp_path: Path
) -> None:
    stories, cpu = shared / "stories260k", BOARDS[board]
    made = build(stories / "stories260K.gguf", cpu, tmp_path / "stories.edge", board)
    options = ("-c", "256", "--temp", "0", "-p", "")
    done = machine.python("-m", "edgellm", "run", made, *options, cpu=cpu)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (stories / "greedy_256.txt").read_text()


@pytest.mark.parametrize("cpu", BOARDS.values())
def test_features_are_the_processors_own(machine: Machine, cpu: str) -> None:
    """Not those of /proc/cpuinfo, which is this machine's."""
    code = "from edgellm import board; print(*board.detect().board.cpu.features)"
    done = machine.python("-c", code, cpu=cpu)
    found = set(done.stdout.split())
    assert {"fp", "asimd"} <= found
    assert ("asimddp" in found) == (cpu == "cortex-a76")


def test_a_chat_without_compiler_and_tinygrad(machine: Machine, tmp_path: Path) -> None:
    made = build(None, "cortex-a53", tmp_path / "default.edge")
    code = "import importlib.util as u; print(u.find_spec('tinygrad'), u.find_spec('ziglang'))"
    assert machine.python("-c", code).stdout.split() == ["None", "None"]
    commands = ("cc", "clang", "gcc", "zig", "ld", "ld.lld")
    assert not [name for name in commands if shutil.which(name, path=ROOT / "usr/bin")]
    done = machine.python("-m", "edgellm", "chat", made, cpu="cortex-a53", answer="who are you?\n")
    assert done.returncode == 0, done.stderr
    assert "edgellm" in done.stdout


def test_here_it_is_told_that_the_machine_is_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "cortex-a72" if target.machine() == "x86_64" else "avx2"
    small_models.write_gguf(tmp_path / "llama.gguf", "llama")
    made = build(tmp_path / "llama.gguf", name, tmp_path / "llama.edge")
    assert cli.main(["chat", str(made)]) == 1
    assert f"this machine is {target.machine()}" in capsys.readouterr().err
