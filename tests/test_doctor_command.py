from __future__ import annotations

import json
import os
import pty
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_ports import Machine

from edgellm import cli
from edgellm.errors import UsageError


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "root")


def doctor(machine: Machine | None, *arguments: str) -> int:
    root = ["--sysroot", str(machine.root)] if machine else []
    return cli.run(["doctor", "serial", *arguments, *root])


def test_all_is_well(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.usb("ttyACM0", mode=0o666)
    machine.port("ttyAMA0", mode=0o666)
    assert doctor(machine) == 0
    assert capsys.readouterr().out == (
        "/dev/ttyACM0  Arduino Uno A1\n"
        "    always the same name: /dev/serial/by-id/usb-Arduino_Uno_A1-if00\n"
        "/dev/ttyAMA0  -\n"
        "no problems found\n"
    )


def test_problems_come_with_their_remedies(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.port("ttyAMA0", mode=0o666)
    machine.usb("ttyACM0", mode=0o666)
    machine.write("proc/cmdline", "console=ttyAMA0,115200 root=/dev/sda")
    machine.program(9, "agetty", "agetty ttyAMA0")
    machine.program(12, "minicom", opens="/dev/ttyACM0")
    assert doctor(machine) == 1
    told = capsys.readouterr().out
    assert told.count("problem: ") == told.count("    what helps: ") == 3
    assert "sudo systemctl disable --now serial-getty@ttyAMA0" in told
    assert "take console=ttyAMA0,115200 out of the kernel's command line" in told
    assert "/dev/ttyACM0 is open in minicom (process 12)" in told


@pytest.mark.parametrize("url", ["/dev/ttyACM0", "serial:///dev/ttyACM0?baud=9600"])
def test_one_port(machine: Machine, capsys: pytest.CaptureFixture[str], url: str) -> None:
    machine.port("ttyAMA0", mode=0o666)
    machine.write("proc/cmdline", "console=ttyAMA0")
    assert doctor(machine, url) == 1
    assert "problem: /dev/ttyACM0 isn't there" in capsys.readouterr().out
    machine.usb("ttyACM0", mode=0o666)
    assert doctor(machine, url) == 0
    assert capsys.readouterr().out.endswith("no problems found\n")


def test_no_port_at_all(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(machine) == 1
    assert "another cable" in capsys.readouterr().out
    machine.write("sys/bus/usb/devices/1-1/idVendor", "1a86")
    machine.write("sys/bus/usb/devices/1-1/idProduct", "7523")
    machine.program(5, "brltty")
    assert doctor(machine) == 1
    told = capsys.readouterr().out
    assert "brltty" in told
    assert "another cable" not in told


def test_json(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.usb("ttyACM0", mode=0o666)
    machine.program(12, "minicom", opens="/dev/ttyACM0")
    assert doctor(machine, "--json") == 1
    about = json.loads(capsys.readouterr().out)
    assert about["line"] is None
    assert about["ports"][0]["usb"] == "2341:0043"
    assert about["problems"] == [
        {
            "text": "/dev/ttyACM0 is open in minicom (process 12)",
            "remedy": "end that program, or use another port",
        }
    ]


def test_names_of_devices_cannot_type_for_the_user(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.usb("ttyACM0", mode=0o666)
    product = machine.root / "sys/devices/platform/soc/usb1/1-1/product"
    product.write_text("\x1b]0;evil\x07\x9b2J\r\nhi")
    doctor(machine)
    told = capsys.readouterr().out
    assert not any(char in told for char in "\x1b\x07\x9b\r")


def test_a_loop(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(None, "loop://", "--seconds", "0") == 0
    assert "of 1024 bytes 1024 came back, 0 of them wrong" in capsys.readouterr().out
    assert doctor(None, "loop://", "--seconds", "0", "--json") == 0
    assert json.loads(capsys.readouterr().out)["line"]["partner"] == "loop"


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    master, slave = pty.openpty()
    tty.setraw(slave)
    yield master, os.ttyname(slave)
    os.close(slave)
    os.close(master)


def test_a_port_that_this_process_has_open_itself(
    terminal: tuple[int, str], capsys: pytest.CaptureFixture[str]
) -> None:
    import fcntl

    holder = os.open(terminal[1], os.O_RDWR | os.O_NOCTTY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    assert doctor(None, terminal[1]) == 1
    assert "can't be used" in capsys.readouterr().out
    os.close(holder)


@pytest.mark.parametrize("seconds", ["-1", "inf", "nan"])
def test_unusable_seconds(seconds: str) -> None:
    with pytest.raises(UsageError, match="--seconds"):
        doctor(None, f"--seconds={seconds}")


def test_unusable_urls() -> None:
    with pytest.raises(UsageError, match="unknown option"):
        doctor(None, "serial:///dev/ttyS0?speed=1")
