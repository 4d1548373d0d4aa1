"""A machine made of files: folders like /sys, /proc and /dev with serial ports in them."""

from __future__ import annotations

from pathlib import Path


class Machine:
    """Files below `root`, added port by port and program by program."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("sys/class/tty", "proc", "dev/serial/by-id", "etc/systemd/system"):
            (root / folder).mkdir(parents=True)
        self.write("proc/cmdline", "quiet root=/dev/mmcblk0p2 console=tty1")

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def port(self, name: str, mode: int = 0o660) -> None:
        """A port on the board itself."""
        (self.root / f"sys/devices/platform/{name}.serial").mkdir(parents=True, exist_ok=True)
        self._tty(name, f"../../../devices/platform/{name}.serial", mode)

    def usb(
        self,
        name: str,
        usb: str = "2341:0043",
        serial: str = "A1",
        place: str = "1-1",
        interface: int = 0,
        mode: int = 0o660,
    ) -> None:
        """A port of a USB device."""
        device = f"sys/devices/platform/soc/usb1/{place}"
        vendor, product = usb.split(":")
        for field, value in (
            ("idVendor", vendor),
            ("idProduct", product),
            ("manufacturer", "Arduino"),
            ("product", "Uno"),
            ("serial", serial),
        ):
            if value:
                self.write(f"{device}/{field}", value)
        inner = f"{device}/{place}:1.{interface}"
        self.write(f"{inner}/bInterfaceNumber", f"{interface:02}")
        self._tty(name, f"../../../{inner.removeprefix('sys/')}", mode)
        link = self.root / f"dev/serial/by-id/usb-Arduino_Uno_{serial}-if{interface:02}"
        link.unlink(missing_ok=True)
        link.symlink_to(f"../../{name}")

    def unplug(self, name: str) -> None:
        (self.root / f"sys/class/tty/{name}/device").unlink()
        (self.root / f"dev/{name}").unlink()

    def program(self, pid: int, name: str, arguments: str = "", opens: str = "") -> None:
        self.write(f"proc/{pid}/comm", name)
        arguments = "".join(f"{word}\0" for word in arguments.split())
        (self.root / f"proc/{pid}/cmdline").write_text(arguments)
        (self.root / f"proc/{pid}/fd").mkdir()
        if opens:
            (self.root / f"proc/{pid}/fd/3").symlink_to(opens)

    def _tty(self, name: str, device: str, mode: int) -> None:
        entry = self.root / f"sys/class/tty/{name}"
        entry.mkdir(exist_ok=True)
        (entry / "device").symlink_to(device)
        node = self.root / f"dev/{name}"
        node.write_bytes(b"")
        node.chmod(mode)
