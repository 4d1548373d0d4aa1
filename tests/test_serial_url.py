from __future__ import annotations

import pytest

from edgellm.errors import UsageError
from edgellm.wire.serial_url import is_serial, parse


def test_schemes() -> None:
    for url in ("serial:///dev/ttyACM0", "SERIAL:COM3", "loop://", "hwgrep://x", "spy:///dev/x"):
        assert is_serial(url)
    for url in ("tcp://127.0.0.1:7070", "/dev/ttyACM0", "console:", ""):
        assert not is_serial(url)


@pytest.mark.parametrize(
    ("url", "device"),
    [
        ("serial:///dev/ttyACM0?baud=9600", "/dev/ttyACM0"),
        ("serial:/dev/ttyACM0", "/dev/ttyACM0"),
        ("serial:///dev/serial/by-id/usb-A%20b-if00", "/dev/serial/by-id/usb-A b-if00"),
        ("serial://COM3", "COM3"),
        ("serial:COM3?baud=9600", "COM3"),
        ("loop://", "loop://"),
        ("serial:loop://", "loop://"),
        ("serial://loop://?baud=9600&logging=debug", "loop://?logging=debug"),
        ("rfc2217://host:2217?ign_set_control&baud=9600", "rfc2217://host:2217?ign_set_control"),
        ("spy:///dev/ttyUSB0?file=log.txt&parity=E", "spy:///dev/ttyUSB0?file=log.txt"),
        ("hwgrep://2341:0043&n=1", "hwgrep://2341:0043&n=1"),
    ],
)
def test_devices(url: str, device: str) -> None:
    line = parse(url)
    assert line.device == device
    assert line.scheme == (device.partition("://")[0] if "://" in device else "")
    assert line.baud == line.settings["baudrate"] == (9600 if "baud" in url else 115200)
    assert line.settings["parity"] == ("E" if "parity" in url else "N")
    assert line.control == {"dtr": True, "rts": True}


def test_the_callers_options() -> None:
    line = parse("serial://COM3?patience=3&dtr=off&xonxoff=1", {"patience": "1", "other": "2"})
    assert line.options == {"patience": "3", "other": "2"}
    assert line.control == {"dtr": False, "rts": True}
    assert line.settings["xonxoff"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("serial://", "no port"),
        ("serial:", "no port"),
        ("serial:///dev/ttyS0?speed=9600", "unknown option 'speed'"),
        ("serial:///dev/ttyS0?baud=fast", "baud is 'fast'"),
        ("serial:///dev/ttyS0?baud=0", "baud is '0'"),
        ("serial:///dev/ttyS0?parity=X", "parity"),
        ("serial:///dev/ttyS0?bytesize=9", "bytesize"),
        ("serial:///dev/ttyS0?stopbits=3", "stopbits"),
        ("serial:///dev/ttyS0?rtscts=maybe", "rtscts is 'maybe'; known are on, off"),
        ("serial:///dev/ttyS0?dtr=", "dtr is empty"),
        ("serial:gopher://x", "gopher"),
    ],
)
def test_unusable_urls(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(url)


def test_a_line_that_is_opened() -> None:
    with parse("loop://?dtr=off").open(timeout=1) as port:
        assert port.baudrate == 115200
        assert not port.dtr
        port.write(b"hello")
        assert port.read(5) == b"hello"
