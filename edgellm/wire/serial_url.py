"""URLs of serial lines: which port, at which speed, with which control lines.

    serial:///dev/ttyACM0?baud=115200        a local port; a name under /dev/serial/by-id stays the
    serial://COM3                            same when the device is plugged in elsewhere
    rfc2217://192.168.1.5:2217               any URL that pyserial understands: a port of another
    socket://192.168.1.5:4001                machine, a port that is logged, one found by its USB
    spy:///dev/ttyUSB0?file=log.txt          identity, …
    hwgrep://2341:0043

Options, after a "?", besides those of pyserial's own URLs:

    baud=115200  bytesize=8  parity=N (E, O, M, S)  stopbits=1 (1.5, 2)
    rtscts=off  xonxoff=off      flow control
    dtr=on  rts=on               the control lines while the port is open
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from edgellm.channel import number, query
from edgellm.errors import UsageError

PYSERIAL = ("alt", "cp2110", "hwgrep", "loop", "rfc2217", "socket", "spy")
"""Schemes of pyserial's URL handlers."""
OPTIONS = {
    "baud": "115200",
    "bytesize": "8",
    "parity": "N",
    "stopbits": "1",
    "rtscts": "off",
    "xonxoff": "off",
    "dtr": "on",
    "rts": "on",
}


@dataclass(frozen=True, slots=True)
class SerialUrl:
    """A line that can be opened."""

    url: str
    device: str
    """What pyserial is to open: a path, a name, or a URL of its own."""
    baud: int
    settings: Mapping[str, Any]
    """Keyword arguments of `serial.Serial`."""
    control: Mapping[str, bool]
    """The lines dtr and rts."""
    options: Mapping[str, str]
    """The caller's own options."""

    @property
    def scheme(self) -> str:
        """Of pyserial's; "" for a local port."""
        scheme, separator, _ = self.device.partition("://")
        return scheme if separator else ""

    def open(self, path: str = "", **settings: Any) -> Any:
        """A `serial.Serial` with `settings` besides those of the URL, at `path` if that's given.

        Opening a port raises DTR and RTS, which no program can prevent; what is to be low falls
        again at once. Raises whatever pyserial's handlers let through, SerialException above all.
        """
        import serial

        at = path or self.device
        port = serial.serial_for_url(at, do_not_open=True, **self.settings, **settings)
        for line, raised in self.control.items():
            if not raised:
                setattr(port, line, False)
        port.open()
        return port


def is_serial(url: str) -> bool:
    """Whether a URL names a serial line."""
    return url.partition(":")[0].lower() in ("serial", *PYSERIAL)


def parse(url: str, options: Mapping[str, str] | None = None) -> SerialUrl:
    """Read a URL; `options` are the caller's own, with their defaults.

    Raises UsageError for an option or a setting that can't be.
    """
    import serial

    device, found = _split(url, {**OPTIONS, **(options or {})})
    scheme, separator, _ = device.partition("://")
    if separator and scheme not in PYSERIAL:
        raise UsageError(f"{url}: unknown scheme {scheme!r}; known are {', '.join(PYSERIAL)}")
    baud = int(number(url, "baud", found["baud"], 1, 1e8))
    settings = {
        "baudrate": baud,
        "bytesize": int(number(url, "bytesize", found["bytesize"], 5, 8)),
        "parity": found["parity"].upper(),
        "stopbits": number(url, "stopbits", found["stopbits"], 1, 2),
        "rtscts": _flag(url, "rtscts", found["rtscts"]),
        "xonxoff": _flag(url, "xonxoff", found["xonxoff"]),
    }
    try:
        serial.Serial(None, **settings)
    except ValueError as error:
        raise UsageError(f"{url}: {error}") from error
    control = {line: _flag(url, line, found[line]) for line in ("dtr", "rts")}
    own = {name: found[name] for name in options or ()}
    return SerialUrl(url, device, baud, settings, control, own)


def _split(url: str, known: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """What pyserial is to open, and our options; those of its URLs' own stay with them."""
    device, _, options = url.partition("?")
    scheme, _, rest = device.partition(":")
    if scheme.lower() == "serial":
        device = rest.removeprefix("//")
        if not device:
            raise UsageError(f"{url}: no port; write serial:///dev/ttyACM0 or serial://COM3")
        if "://" not in device:
            return unquote(device), query(url, known)
    ours: list[str] = []
    theirs: list[str] = []
    for option in filter(None, options.split("&")):
        (ours if option.partition("=")[0] in known else theirs).append(option)
    if theirs:
        device += "?" + "&".join(theirs)
    return device, query(f"{device.partition('?')[0]}?{'&'.join(ours)}", known)


def _flag(url: str, name: str, value: str) -> bool:
    if value not in ("on", "off", "1", "0"):
        raise UsageError(f"{url}: {name} is {value!r}; known are on, off")
    return value in ("on", "1")
