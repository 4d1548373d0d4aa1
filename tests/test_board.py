"""edgellm/board.py: profiles found, and boards told apart by what their kernels say."""

from __future__ import annotations

import mmap
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm import board, folders
from edgellm.errors import BackendError, FormatError, UsageError
from edgellm_backends.cpu import CPUBackend, target

TREES = Path(__file__).parent / "data" / "boards"
EVERY = sorted(path.name for path in TREES.iterdir())
BUILT = {
    "android": "i8mm",
    "beagleplay": "cortex-a53",
    "beagley-ai": "cortex-a53",
    "generic": "cortex-a72",
    "jetson-orin-nano": "cortex-a76",
    "n100": "avxvnni",
    "raspberry-pi-3": "cortex-a53",
    "raspberry-pi-4": "cortex-a72",
    "raspberry-pi-5": "cortex-a76",
    "raspberry-pi-zero-2-w": "cortex-a53",
    "rk3566": "cortex-a76",
    "rk3588": "cortex-a76",
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's profiles."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "config" / "edgellm" / "boards"
    folder.mkdir(parents=True)
    assert folder == board.user_folder() == folders.config() / "boards"
    return folder


@pytest.fixture
def tree(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of a board's tree, to be changed."""
    return Path(shutil.copytree(TREES / request.param, tmp_path / "root"))


def test_there_is_a_tree_for_every_profile() -> None:
    assert board.names() == EVERY


@pytest.mark.parametrize("name", EVERY)
def test_each_board_is_told_by_its_tree(name: str) -> None:
    found = board.detect(TREES / name)
    assert found.board.name == name
    assert found.model
    assert found.memory_bytes
    assert found.reasons
    assert bool(found.notices) == (name == "generic")


@pytest.mark.parametrize("name", BUILT)
def test_what_is_compiled_for_a_board_found(name: str) -> None:
    found = board.detect(TREES / name).board
    built = CPUBackend().target(board=found)
    assert built.name == BUILT[name]
    assert set(built.features) <= set(found.cpu.features)


@pytest.mark.parametrize("name", sorted({*EVERY} - {"android", "generic"}))
def test_a_profile_agrees_with_its_tree(name: str) -> None:
    profile, found = board.load(name), board.detect(TREES / name).board
    assert profile.cpu.machine == found.cpu.machine
    assert set(profile.cpu.features) <= set(found.cpu.features)
    if name != "apple-m":
        counts = [sum(len(part.cpus) for part in cpu.clusters) for cpu in (profile.cpu, found.cpu)]
        assert counts[0] == counts[1]


@pytest.mark.parametrize("tree", ["raspberry-pi-5"], indirect=True)
def test_the_name_never_decides_what_the_processor_can_do(tree: Path) -> None:
    cpuinfo = tree / "proc" / "cpuinfo"
    cpuinfo.write_text(cpuinfo.read_text().replace(" asimddp", ""))
    found = board.detect(tree)
    assert found.board.name == "raspberry-pi-5"
    assert found.notices == (
        "the processor lacks asimddp, which Raspberry Pi 5 has: what is compiled for it makes do "
        "without",
    )
    built = CPUBackend().target(board=found.board)
    assert "asimddp" not in built.features
    assert built.name == "cortex-a72"


@pytest.mark.parametrize("tree", ["raspberry-pi-5"], indirect=True)
def test_a_processor_of_another_kind(tree: Path) -> None:
    shutil.copy(TREES / "n100" / "proc" / "cpuinfo", tree / "proc" / "cpuinfo")
    found = board.detect(tree)
    assert "but its own is x86_64" in found.notices[0]
    assert CPUBackend().target(board=found.board).name == "avxvnni"


@pytest.mark.parametrize("tree", ["raspberry-pi-5"], indirect=True)
def test_a_processor_that_nothing_is_told_of(tree: Path) -> None:
    (tree / "proc" / "cpuinfo").unlink()
    found = board.detect(tree)
    assert "features aren't told" in found.notices[0]
    assert CPUBackend().target(board=found.board).name == "cortex-a76"


@pytest.mark.parametrize("tree", ["generic"], indirect=True)
def test_an_unknown_board_is_told_of(tree: Path) -> None:
    (notice,) = board.detect(tree).notices
    assert notice.startswith("no profile is for Acme Widget: the generic one serves")


@pytest.mark.parametrize("tree", ["raspberry-pi-4"], indirect=True)
def test_the_device_tree_where_proc_has_no_link_to_it(tree: Path) -> None:
    base = tree / "sys" / "firmware" / "devicetree"
    base.mkdir(parents=True)
    (tree / "proc" / "device-tree").rename(base / "base")
    assert board.detect(tree).board.name == "raspberry-pi-4"


@pytest.mark.parametrize("tree", ["raspberry-pi-4"], indirect=True)
def test_a_link_as_proc_has_it_doesnt_lead_to_this_machine(tree: Path, tmp_path: Path) -> None:
    link = tree / "proc" / "device-tree"
    here, there = tmp_path / "here", tree / "sys" / "firmware" / "devicetree" / "base"
    there.parent.mkdir(parents=True)
    link.rename(there)
    shutil.copytree(TREES / "raspberry-pi-5" / "proc" / "device-tree", here)
    link.symlink_to(here)
    assert board.detect(tree).board.name == "raspberry-pi-4"


@given(compatible=st.binary(max_size=99), getprop=st.text(), meminfo=st.text())
def test_no_clue_is_a_surprise(compatible: bytes, getprop: str, meminfo: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "proc" / "device-tree").mkdir(parents=True)
        for file in ("compatible", "model"):
            (root / "proc" / "device-tree" / file).write_bytes(compatible)
        for file, text in (("getprop", getprop), ("sysctl", getprop), ("proc/meminfo", meminfo)):
            (root / file).write_text(text, errors="replace")
        assert board.detect(root).board.name in board.names()


def test_an_empty_root_is_of_no_board(tmp_path: Path) -> None:
    found = board.detect(tmp_path)
    assert found.board.name == "generic"
    assert found.memory_bytes is None
    assert len(found.notices) == 2


def test_this_machine_is_something() -> None:
    found = board.detect()
    assert found.board.name in board.names()
    assert found.board.page_kib == mmap.PAGESIZE // 1024
    assert CPUBackend().target(board=found.board) == target.native()


@pytest.mark.parametrize("name", ["visionfive-2", "apple-m", "generic"])
def test_a_board_without_kernels_is_told_so(name: str) -> None:
    title = board.load(name).title
    with pytest.raises(BackendError, match=f"no kernels for the processor of {title} .*64-bit Arm"):
        CPUBackend().target(board=name)


def test_a_profile_of_the_users_comes_first(own: Path) -> None:
    (own / "raspberry-pi-5.toml").write_text('title = "My own"\nmatch.compatible = ["acme,soc1"]')
    assert board.load("raspberry-pi-5").title == "My own"
    assert board.detect(TREES / "generic").board.title == "My own"
    assert board.detect(TREES / "raspberry-pi-5").board.name == "generic"


def test_a_new_board_of_the_users(own: Path) -> None:
    (own / "widget.toml").write_text('title = "Widget"\nmatch.compatible = ["acme,widget"]')
    (own / "readme.txt").write_text("not a profile")
    assert set(board.names()) == {*EVERY, "widget"}
    assert board.detect(TREES / "generic").board.title == "Widget"


def test_a_pc_by_its_firmware(own: Path) -> None:
    (own / "x4.toml").write_text('title = "X4"\nmatch.dmi = ["Radxa X4"]')
    found = board.detect(TREES / "n100")
    assert found.board.name == "x4"
    assert found.reasons[0] == "the firmware calls the machine 'Radxa X4'"


def test_a_target_that_the_features_dont_allow(own: Path) -> None:
    text = 'title = "W"\ncpu.machine = "aarch64"\ncpu.features = ["fp"]\ncpu.target = "cortex-a53"'
    (own / "widget.toml").write_text(text)
    with pytest.raises(UsageError, match="profile of widget names the target cortex-a53"):
        CPUBackend().target(board="widget")


def test_a_broken_profile_is_named(own: Path) -> None:
    (own / "widget.toml").write_text("title = 3")
    with pytest.raises(FormatError, match=r"boards/widget\.toml: title is 3; a text"):
        board.load("widget")
    with pytest.raises(FormatError, match=r"boards/widget\.toml"):
        board.detect(TREES / "generic")


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'raspberry-pi-9'; known are android, apple-m, beagle"):
        board.load("raspberry-pi-9")


def test_without_a_home_there_are_edgellms_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATE_DIRECTORY", "XDG_CONFIG_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError()))
    assert board.names() == EVERY
