"""edgellm boards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgellm import board, cli

TREES = Path(__file__).parent / "data" / "boards"


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What `edgellm boards` prints; its error where it fails."""
    status = cli.main(["boards", *map(str, arguments)])
    said = capsys.readouterr()
    assert (status == 0) == (said.err == "")
    return said.out if status == 0 else said.err


def facts(text: str) -> dict[str, str]:
    lines = (line.partition("  ") for line in text.splitlines())
    return {name: value.strip() for name, _, value in lines}


def test_every_board_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    head, *lines = call(capsys).splitlines()
    assert head.split() == ["NAME", "TARGET", "BOARD"]
    assert [line.split()[0] for line in lines] == board.names()
    assert "raspberry-pi-5         cortex-a76  Raspberry Pi 5" in lines
    assert "visionfive-2           -           VisionFive 2" in lines
    listed = json.loads(call(capsys, "list", "--json"))
    assert [one["name"] for one in listed] == board.names()


def test_one_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    shown = facts(call(capsys, "show", "rk3588"))
    assert shown["target"] == "cortex-a76"
    assert shown["cores"].startswith("4 x Cortex-A55 at up to 1800 MHz; 4 x Cortex-A76")
    assert "sbc-bench" in shown["reads memory"]
    data = json.loads(call(capsys, "show", "rk3588", "--json"))
    assert data["backends"] == ["cpu", "opencl"]
    assert data["cpu"]["clusters"][1]["cpus"] == [4, 5, 6, 7]


def test_one_is_detected_below_another_root(capsys: pytest.CaptureFixture[str]) -> None:
    root = TREES / "raspberry-pi-4"
    shown = facts(call(capsys, "detect", "--sysroot", root))
    assert shown["board"] == "raspberry-pi-4"
    assert shown["model"] == "Raspberry Pi 4 Model B Rev 1.4"
    assert shown["because"] == (
        "the device tree is compatible with 'brcm,bcm2711'; the kernel tells of 4 x Cortex-A72 "
        "(aarch64)"
    )
    assert shown["features"] == "fp asimd"
    assert shown["memory here"] == "3.7 GiB"
    data = json.loads(call(capsys, "detect", "--sysroot", root, "--json"))
    assert data["board"]["name"] == "raspberry-pi-4"
    assert data["target"] == "cortex-a72"
    assert "crc32" in data["board"]["cpu"]["features"]


def test_an_unknown_board_comes_with_a_notice(capsys: pytest.CaptureFixture[str]) -> None:
    shown = facts(call(capsys, "detect", "--sysroot", TREES / "generic"))
    assert shown["board"] == "generic"
    assert "no profile is for Acme Widget" in shown["notice"]


def test_this_machine_is_detected(capsys: pytest.CaptureFixture[str]) -> None:
    assert facts(call(capsys, "detect"))["board"] in board.names()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show"], "show which board?"),
        (["show", "raspberry-pi-9"], "no profile of a board 'raspberry-pi-9'"),
        (["list", "rk3588"], "'rk3588': list takes no name; did you mean show?"),
        (["--sysroot", "."], "--sysroot goes with detect"),
        (["detect", "--sysroot", "nowhere"], "--sysroot: nowhere is no folder"),
    ],
)
def test_mistakes(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in call(capsys, *arguments)


def test_what_a_machine_says_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "proc" / "device-tree"
    folder.mkdir(parents=True)
    (folder / "model").write_bytes(b"\x1b[2JWidget\n\0")
    (folder / "compatible").write_bytes(b"\xff\x1b]0;\0")
    said = call(capsys, "detect", "--sysroot", tmp_path)
    assert "?[2JWidget" in said
    assert "\x1b" not in said
