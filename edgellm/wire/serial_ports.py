"""The serial ports of this machine: what is plugged in, who may open it, who holds it already.

Read from the kernel's own files (/sys, /proc, /dev), below a folder that can be another machine's:
`root`. Where there is no /sys/class/tty the ports are those that pyserial finds, without more.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
MAX_FILE = 64 * 1024
"""Bytes read of a file of the kernel's; they hold a line, or a command line."""
GETTYS = ("agetty", "getty", "mgetty", "login", "sulogin")
UNIT_FOLDERS = ("etc/systemd/system", "run/systemd/generator", "usr/lib/systemd/system")
CH340 = "1a86:7523"
"""The USB identity that a Braille display's driver shares with many boards."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port and the device behind it; texts are empty where nothing is known."""

    device: str
    by_id: str = ""
    """A name that stays the same when the device is plugged in again or elsewhere."""
    manufacturer: str = ""
    product: str = ""
    serial_number: str = ""
    usb: str = ""
    """Vendor and product, "2341:0043"."""
    place: str = ""
    """Where in the tree of USB ports, and which of the device's interfaces: "1-1.2:1.0"."""

    @property
    def identity(self) -> tuple[str, str, str] | None:
        """What stays when the kernel gives the port another number; None if nothing does."""
        if not self.usb:
            return None
        place, _, interface = self.place.partition(":")
        return self.usb, self.serial_number or place, interface

    @property
    def name(self) -> str:
        """For people."""
        return " ".join(filter(None, (self.manufacturer, self.product)))


@dataclass(frozen=True, slots=True)
class User:
    """Who wants to open a port."""

    uid: int
    groups: frozenset[int]

    @classmethod
    def current(cls) -> User:
        """Whoever runs this process."""
        return cls(os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and what helps."""

    text: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Holder:
    """A program that has a port open."""

    pid: int
    program: str


def ports(root: Path = ROOT) -> list[Port]:
    """The ports that have a device behind them, sorted by name."""
    classes = root / "sys/class/tty"
    if not classes.is_dir():  # no Linux
        return _found_by_pyserial() if root == ROOT else []
    links: dict[str, str] = {}
    folder = root / "dev/serial/by-id"
    for link in sorted(folder.iterdir()) if folder.is_dir() else ():
        name = os.path.basename(os.path.realpath(link))
        links.setdefault(name, f"/dev/serial/by-id/{link.name}")
    names = sorted(entry.name for entry in classes.iterdir() if _is_port(entry))
    return [
        _port(classes / name, links.get(name, ""))
        for name in names
        if (root / "dev" / name).exists()
    ]


def find(device: str, root: Path = ROOT) -> Port | None:
    """The port behind a path, which may be a link."""
    real = _real(device, root)
    return next((port for port in ports(root) if port.device == real), None)


def _found_by_pyserial() -> list[Port]:
    from serial.tools import list_ports

    return [
        Port(
            found.device,
            manufacturer=found.manufacturer or "",
            product=found.product or "",
            serial_number=found.serial_number or "",
            usb="" if found.vid is None else f"{found.vid:04x}:{found.pid:04x}",
            place=found.location or "",
        )
        for found in sorted(list_ports.comports())
    ]


def _is_port(entry: Path) -> bool:
    if entry.name.startswith(("ttyGS", "rfcomm")):
        return True
    # Of the old ports the kernel has names in store; those without a chip are of type 0.
    return (entry / "device").exists() and _line(entry / "type") != "0"


def _port(entry: Path, by_id: str) -> Port:
    device = f"/dev/{entry.name}"
    place = ""
    here = Path(os.path.realpath(entry / "device"))
    for folder in (here, *here.parents):
        if (folder / "bInterfaceNumber").exists():
            place = folder.name
        if (folder / "idVendor").exists():
            return Port(
                device,
                by_id,
                _line(folder / "manufacturer"),
                _line(folder / "product"),
                _line(folder / "serial"),
                f"{_line(folder / 'idVendor')}:{_line(folder / 'idProduct')}",
                place or folder.name,
            )
    return Port(device, by_id)


def problems(device: str, root: Path = ROOT, user: User | None = None) -> list[Problem]:
    """What keeps a user (default: this process's) from having the port for themselves."""
    found = [no_permission(device, root, user)]
    found += [login(device, root), kernel_console(device, root)]
    others = [other for other in holders(device, root) if other.program not in GETTYS]
    if others:
        names = ", ".join(f"{other.program} (process {other.pid})" for other in others)
        found.append(
            Problem(f"{device} is open in {names}", "end that program, or use another port")
        )
    return [problem for problem in found if problem]


def missing(device: str, root: Path = ROOT) -> Problem | None:
    """A port that isn't there."""
    if (root / device.lstrip("/")).exists():
        return None
    return Problem(
        f"{device} isn't there",
        "plug the device in; if it is, try another cable (many carry power only) and see what "
        "`sudo dmesg -w` says when it is plugged in; `edgellm doctor serial` lists the ports",
    )


def no_permission(device: str, root: Path = ROOT, user: User | None = None) -> Problem | None:
    """A port that the user may not read and write."""
    try:
        about = (root / device.lstrip("/")).stat()
    except OSError:
        return None
    user = user or User.current()
    shift = 6 if about.st_uid == user.uid else 3 if about.st_gid in user.groups else 0
    if user.uid == 0 or about.st_mode >> shift & 0o6 == 0o6:
        return None
    owner, group = _user_name(about.st_uid), _group_name(about.st_gid)
    text = f"no permission to open {device} ({stat.filemode(about.st_mode)} {owner} {group})"
    if about.st_gid == 0 or about.st_mode & 0o060 != 0o060:
        return Problem(text, f"sudo chmod a+rw {device}, until it is plugged in again")
    me = _user_name(user.uid)
    if me in _members(about.st_gid):
        return Problem(
            f"{text}; {me} is in the group {group}, but wasn't when this login began",
            "log out and in again (a service: restart it)",
        )
    return Problem(text, f"sudo usermod -aG {group} {me}, then log out and in again")


def login(device: str, root: Path = ROOT) -> Problem | None:
    """A login prompt (getty) of this machine on the port: it eats what the device sends."""
    name = _real(device, root).removeprefix("/dev/")
    unit = f"serial-getty@{name}.service"
    started = any(unit in _wanted(root / folder) for folder in UNIT_FOLDERS)
    running = any(
        _line(process / "comm") in GETTYS
        and (name.encode() in _arguments(process) or unit in _text(process / "cgroup"))
        for process in _processes(root)
    )
    if started or running:
        return Problem(
            f"a login prompt (getty) is on {device}, and takes part of what the device sends",
            f"sudo systemctl disable --now {unit.removesuffix('.service')}",
        )
    for line in _text(root / "etc/inittab").splitlines():
        if "getty" in line and name in line.replace("/", " ").split() and line[:1] != "#":
            return Problem(
                f"a login prompt (getty) is on {device}, and takes part of what the device sends",
                f"take the line with {name} out of /etc/inittab, then sudo kill -HUP 1",
            )
    return None


def kernel_console(device: str, root: Path = ROOT) -> Problem | None:
    """A port on which this machine's kernel prints its messages."""
    real = _real(device, root)
    for word in _text(root / "proc/cmdline").split():
        option, _, value = word.partition("=")
        name = value.partition(",")[0]
        if option == "console" and name and _real(f"/dev/{name}", root) == real:
            return Problem(
                f"the kernel prints its messages on {device}",
                f"take {word} out of the kernel's command line (Raspberry Pi: "
                "/boot/firmware/cmdline.txt, or raspi-config, Interface Options, Serial Port) and "
                "start anew",
            )
    return None


def holders(device: str, root: Path = ROOT) -> list[Holder]:
    """The programs that have the port open, but for this one; of other users' programs only root
    can know."""
    real = _real(device, root)
    found = []
    for process in _processes(root):
        if process.name == str(os.getpid()):
            continue
        try:
            links = [os.readlink(link) for link in (process / "fd").iterdir()]
        except OSError:  # ended, or another user's
            continue
        if real in links:
            found.append(Holder(int(process.name), _line(process / "comm") or "?"))
    return sorted(found, key=lambda holder: holder.pid)


def grabbed_by_brltty(root: Path = ROOT) -> Problem | None:
    """A board that looks like a Braille display, whose driver takes the port away."""
    devices = root / "sys/bus/usb/devices"
    here = [
        entry
        for entry in (devices.iterdir() if devices.is_dir() else ())
        if f"{_line(entry / 'idVendor')}:{_line(entry / 'idProduct')}" == CH340
    ]
    if not here or any(port.usb == CH340 for port in ports(root)):
        return None
    if not any(_line(process / "comm") == "brltty" for process in _processes(root)):
        return None
    return Problem(
        f"the driver for Braille displays (brltty) has taken a USB adapter ({CH340})",
        "sudo apt remove brltty, if nobody needs it, then plug the adapter in again",
    )


def _processes(root: Path) -> Iterator[Path]:
    folder = root / "proc"
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name.isdecimal():
            yield entry


def _arguments(process: Path) -> list[bytes]:
    return [word.removeprefix(b"/dev/") for word in _bytes(process / "cmdline").split(b"\0")]


def _wanted(folder: Path) -> set[str]:
    """The units that systemd starts for its target of logins."""
    try:
        return {entry.name for entry in (folder / "getty.target.wants").iterdir()}
    except OSError:
        return set()


def _real(device: str, root: Path) -> str:
    """A path without links, as the machine at `root` sees it."""
    real = Path(os.path.realpath(root / device.lstrip("/")))
    inside = Path(os.path.realpath(root))
    return f"/{real.relative_to(inside)}" if real.is_relative_to(inside) else str(real)


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _members(gid: int) -> list[str]:
    import grp

    try:
        return grp.getgrgid(gid).gr_mem
    except KeyError:
        return []


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE)
    except OSError:
        return b""


def _text(path: Path) -> str:
    return _bytes(path).decode(errors="replace")


def _line(path: Path) -> str:
    return _text(path).strip()
