from __future__ import annotations

import grp
import os
import pty
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
from fake_ports import Machine

from edgellm.wire import serial_ports
from edgellm.wire.serial_ports import Holder, Port, Problem, User

ME = User(4242, frozenset({4242}))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "root")


def test_ports(machine: Machine) -> None:
    machine.port("ttyAMA0")
    machine.port("ttyS7")
    machine.write("sys/class/tty/ttyS7/type", "0")  # a name without a chip
    machine.usb("ttyACM0")
    machine.usb("ttyUSB0", "0403:6011", "F", "1-2", interface=1)
    (machine.root / "sys/class/tty/tty1").mkdir()
    assert serial_ports.ports(machine.root) == [
        Port(
            "/dev/ttyACM0",
            "/dev/serial/by-id/usb-Arduino_Uno_A1-if00",
            "Arduino",
            "Uno",
            "A1",
            "2341:0043",
            "1-1:1.0",
        ),
        Port("/dev/ttyAMA0"),
        Port(
            "/dev/ttyUSB0",
            "/dev/serial/by-id/usb-Arduino_Uno_F-if01",
            "Arduino",
            "Uno",
            "F",
            "0403:6011",
            "1-2:1.1",
        ),
    ]


def test_a_link_leads_to_its_port(machine: Machine) -> None:
    machine.usb("ttyACM0")
    port = serial_ports.find("/dev/serial/by-id/usb-Arduino_Uno_A1-if00", machine.root)
    assert port is not None
    assert port.device == "/dev/ttyACM0"
    assert port.name == "Arduino Uno"
    assert serial_ports.find("/dev/ttyACM1", machine.root) is None


def test_identity_outlives_the_number_but_not_the_interface(machine: Machine) -> None:
    def identity(name: str) -> object:
        port = serial_ports.find(f"/dev/{name}", machine.root)
        assert port is not None
        return port.identity

    machine.usb("ttyACM0")
    machine.usb("ttyACM1", interface=2)
    machine.usb("ttyUSB0", "1a86:7523", serial="", place="1-3")
    first, second, nameless = identity("ttyACM0"), identity("ttyACM1"), identity("ttyUSB0")
    assert len({first, second, nameless}) == 3
    for name in ("ttyACM0", "ttyACM1", "ttyUSB0"):
        machine.unplug(name)
    machine.usb("ttyACM5", place="1-2")  # in another socket
    machine.usb("ttyACM6", place="1-2", interface=2)
    machine.usb("ttyUSB7", "1a86:7523", serial="", place="1-3")
    machine.usb("ttyUSB8", "1a86:7523", serial="", place="1-4")
    assert identity("ttyACM5") == first
    assert identity("ttyACM6") == second
    assert identity("ttyUSB7") == nameless
    assert identity("ttyUSB8") != nameless
    machine.port("ttyAMA0")
    assert identity("ttyAMA0") is None


def test_permission(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.port("ttyAMA0")
    node = machine.root / "dev/ttyAMA0"

    def denied(user: User) -> Problem | None:
        return serial_ports.no_permission("/dev/ttyAMA0", machine.root, user)

    monkeypatch.setattr(
        Path, "stat", lambda self, stat=Path.stat, **o: owned(stat(self, **o), 0, 20, self)
    )
    assert denied(User(0, frozenset())) is None
    assert denied(User(4242, frozenset({20}))) is None
    problem = denied(ME)
    assert problem is not None
    group = grp.getgrgid(20).gr_name
    assert problem.text.startswith("no permission to open /dev/ttyAMA0 (-rw-rw---- root")
    assert problem.remedy.startswith(f"sudo usermod -aG {group} 4242")
    node.chmod(0o666)
    assert denied(ME) is None


def owned(found: os.stat_result, uid: int, gid: int, path: Path) -> os.stat_result:
    if path.name != "ttyAMA0":
        return found
    return os.stat_result((*found[:4], uid, gid, *found[6:]))


def test_a_group_joined_after_login(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.port("ttyAMA0")
    monkeypatch.setattr(
        Path, "stat", lambda self, stat=Path.stat, **o: owned(stat(self, **o), 0, 20, self)
    )
    me = pwd.getpwall()[-1]
    members = grp.struct_group(("dialout", "x", 20, [me.pw_name]))
    monkeypatch.setattr(grp, "getgrgid", lambda gid: members)
    user = User(me.pw_uid, frozenset({me.pw_gid}))
    if not user.uid or 20 in user.groups:
        pytest.skip("the last user here is root, or has the group")
    problem = serial_ports.no_permission("/dev/ttyAMA0", machine.root, user)
    assert problem is not None
    assert "wasn't when this login began" in problem.text
    assert problem.remedy.startswith("log out and in again")


def test_a_port_that_no_group_may_use(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.port("ttyAMA0", 0o600)
    monkeypatch.setattr(
        Path, "stat", lambda self, stat=Path.stat, **o: owned(stat(self, **o), 0, 0, self)
    )
    problem = serial_ports.no_permission("/dev/ttyAMA0", machine.root, ME)
    assert problem is not None
    assert problem.remedy.startswith("sudo chmod a+rw /dev/ttyAMA0")


@pytest.mark.parametrize(
    "unit",
    [
        "etc/systemd/system/getty.target.wants/serial-getty@ttyAMA0.service",
        "run/systemd/generator/getty.target.wants/serial-getty@ttyAMA0.service",
    ],
)
def test_getty_units(machine: Machine, unit: str) -> None:
    machine.port("ttyAMA0")
    assert serial_ports.login("/dev/ttyAMA0", machine.root) is None
    machine.write(unit, "[Service]")
    problem = serial_ports.login("/dev/ttyAMA0", machine.root)
    assert problem is not None
    assert problem.remedy == "sudo systemctl disable --now serial-getty@ttyAMA0"
    assert serial_ports.login("/dev/ttyAMA1", machine.root) is None


def test_a_getty_that_runs(machine: Machine) -> None:
    machine.port("ttyAMA0")
    (machine.root / "dev/serial0").symlink_to("ttyAMA0")
    machine.program(7, "agetty", "/sbin/agetty -L 115200 ttyAMA0 vt220", opens="/dev/ttyAMA0")
    for name in ("/dev/ttyAMA0", "/dev/serial0"):
        found = serial_ports.problems(name, machine.root, User(0, frozenset()))
        assert len(found) == 1
        assert "login prompt (getty)" in found[0].text


def test_a_getty_that_knows_its_port_from_its_unit(machine: Machine) -> None:
    machine.port("ttyAMA0")
    machine.program(7, "agetty", "/sbin/agetty --keep-baud 115200 - vt220")
    unit = "serial-getty@ttyAMA0.service"
    machine.write("proc/7/cgroup", f"0::/system.slice/system-serial\\x2dgetty.slice/{unit}")
    assert serial_ports.login("/dev/ttyAMA0", machine.root)
    assert serial_ports.login("/dev/ttyAMA1", machine.root) is None


def test_a_getty_of_inittab(machine: Machine) -> None:
    machine.write("etc/inittab", "#ttyS1::respawn:/sbin/getty ttyS1\nx:/sbin/getty -L ttyS0 9600")
    problem = serial_ports.login("/dev/ttyS0", machine.root)
    assert problem is not None
    assert "inittab" in problem.remedy
    assert serial_ports.login("/dev/ttyS1", machine.root) is None


@pytest.mark.parametrize("console", ["ttyAMA0", "ttyAMA0,115200n8", "serial0,115200"])
def test_the_kernels_console(machine: Machine, console: str) -> None:
    machine.port("ttyAMA0")
    (machine.root / "dev/serial0").symlink_to("ttyAMA0")
    assert serial_ports.kernel_console("/dev/ttyAMA0", machine.root) is None
    machine.write("proc/cmdline", f"quiet console={console} console=tty1 x=console=ttyS0")
    problem = serial_ports.kernel_console("/dev/ttyAMA0", machine.root)
    assert problem is not None
    assert f"take console={console} out of" in problem.remedy
    assert serial_ports.kernel_console("/dev/ttyS0", machine.root) is None


def test_holders(machine: Machine) -> None:
    machine.usb("ttyACM0")
    machine.program(12, "minicom", "minicom -D x", opens="/dev/ttyACM0")
    machine.program(7, "screen", opens="/dev/ttyACM0")
    machine.program(8, "cat", opens="/dev/ttyACM1")
    (machine.root / "proc/9").mkdir()  # a process that has just ended
    link = "/dev/serial/by-id/usb-Arduino_Uno_A1-if00"
    for name in ("/dev/ttyACM0", link):
        assert serial_ports.holders(name, machine.root) == [
            Holder(7, "screen"),
            Holder(12, "minicom"),
        ]
    problem, *others = serial_ports.problems(link, machine.root, User(0, frozenset()))
    assert not others
    assert problem.text == f"{link} is open in screen (process 7), minicom (process 12)"


def test_a_real_holder() -> None:
    master, slave = pty.openpty()
    name = os.ttyname(slave)
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[slave]
    ) as child:
        os.close(slave)
        assert [holder.pid for holder in serial_ports.holders(name)] == [child.pid]
        child.communicate(b"\n")
    os.close(master)


def test_missing(machine: Machine) -> None:
    machine.port("ttyAMA0")
    assert serial_ports.missing("/dev/ttyAMA0", machine.root) is None
    problem = serial_ports.missing("/dev/ttyACM0", machine.root)
    assert problem is not None
    assert "another cable" in problem.remedy


def test_brltty(machine: Machine) -> None:
    assert serial_ports.grabbed_by_brltty(machine.root) is None
    machine.write("sys/bus/usb/devices/1-1/idVendor", "1a86")
    machine.write("sys/bus/usb/devices/1-1/idProduct", "7523")
    assert serial_ports.grabbed_by_brltty(machine.root) is None
    machine.program(5, "brltty")
    problem = serial_ports.grabbed_by_brltty(machine.root)
    assert problem is not None
    assert "apt remove brltty" in problem.remedy
    machine.usb("ttyUSB0", "1a86:7523")
    assert serial_ports.grabbed_by_brltty(machine.root) is None


def test_a_machine_without_a_sysfs_is_asked_through_pyserial(tmp_path: Path) -> None:
    assert isinstance(serial_ports.ports(tmp_path), list)


def test_files_may_be_odd(machine: Machine) -> None:
    machine.usb("ttyACM0")
    product = machine.root / "sys/devices/platform/soc/usb1/1-1/product"
    product.write_bytes(b"\xff" * 100_000)
    port, *_ = serial_ports.ports(machine.root)
    assert len(port.product) <= serial_ports.MAX_FILE
    loop = machine.root / "dev/loop"
    loop.symlink_to("loop")
    assert serial_ports.find("/dev/loop", machine.root) is None
    assert serial_ports.missing("/dev/loop", machine.root)
