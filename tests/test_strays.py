from __future__ import annotations

import random

import pytest

from edgellm.link import strays
from edgellm.link.frames import encode
from edgellm.link.lines import MAX_LINE
from edgellm.link.strays import MAX_FRAME, Strays

GETTY = b"\r\nDebian GNU/Linux 12 raspberrypi ttyAMA0\r\n\r\nraspberrypi login: "
ESP32 = b"""ets Jul 29 2019 12:21:46

rst:0x1 (POWERON_RESET),boot:0x13 (SPI_FAST_FLASH_BOOT)
configsip: 0, SPIWP:0xee
clk_drv:0x00,q_drv:0x00,d_drv:0x00,cs0_drv:0x00,hd_drv:0x00,wp_drv:0x00
mode:DIO, clock div:1
load:0x3fff0030,len:1184
entry 0x400805e4
\x1b[0;32mI (29) boot: ESP-IDF v5.1 2nd stage bootloader\x1b[0m
""".replace(b"\n", b"\r\n")
LINUX = b"""U-Boot 2023.01 (Jan 01 2023 - 00:00:00 +0000)\r
Hit any key to stop autoboot:  0 \r
[    0.000000] Booting Linux on physical CPU 0x0000000000 [0x410fd083]\r
[   12.345678] usb 1-1: new high-speed USB device\r
[  OK  ] Started \x1b[0;1;39mOpenSSH server\x1b[0m.\r
"""
PICO = b"MicroPython v1.22.0 on 2024-01-05; Raspberry Pi Pico with RP2040\r\n>>> \r\n"
AT = b"AT\rAT\r\nATE0\rATZ\rATI\rAT+GCAP\rAT+CGMI=?\rAT&F&C1\rATQ0V1E1+CMEE=1\r"


def filtered(*pieces: bytes) -> tuple[bytes, Strays, list[str]]:
    told: list[str] = []
    one = Strays(told.append)
    return b"".join(map(one.receive, pieces)), one, told


def words(data: bytes) -> list[bytes]:
    return data.split()


@pytest.mark.parametrize(
    ("junk", "about"),
    [
        (GETTY, [strays.LOGIN]),
        (b"Password: ", [strays.LOGIN]),
        (b"\r\nLogin incorrect\r\nraspberrypi login: root\r\n", [strays.LOGIN]),
        (b"Welcome to Buildroot\r\nbuildroot login: ", [strays.LOGIN]),
        (ESP32, []),
        (PICO, []),
        (ESP32[90:], []),
        (b" 2013,rst cause:2, boot mode:(3,6)\r\n", []),
        (LINUX, [strays.CONSOLE]),
        (AT, [strays.PROBE]),
        (b"\xfe\x80junk\xff\r\n", []),
        (b"rl\x0c\x82l\x1c\r\n\x01\x02garbage\x03\n", []),
    ],
)
def test_what_is_not_the_devices(junk: bytes, about: list[str]) -> None:
    for repeat in (1, 3):
        kept, one, told = filtered(*[junk] * repeat, b"turn on the fan\n")
        assert kept.strip() == b"turn on the fan"
        assert told == about
        assert one.noise
    for size in (1, 2, 7):
        pieces = [junk[at : at + size] for at in range(0, len(junk), size)]
        assert words(filtered(*pieces, b"turn on the fan\n")[0])[-4:] == words(b"turn on the fan")


@pytest.mark.parametrize(
    "line",
    [
        b"hello\n",
        "wie spät ist es?\r\n".encode(),
        b"/status\r",
        b"\n",
        b"What does login: mean on a terminal?\n",
        b"AT what time does the sun rise?\n",
        b"ATTENTION\n",
        b"ATLAS\n",
        b"is ttyAMA0 a good port\n",
        b"how do I install Linux\n",
        b"[1] is a list\n",
        b"hel\x7flo\x08 \x1b[A\n",
        b"load the truck\n",
    ],
)
def test_what_is_the_devices(line: bytes) -> None:
    assert filtered(line)[0] == line
    for size in (1, 3):
        pieces = [line[at : at + size] for at in range(0, len(line), size)]
        kept, one, told = filtered(*pieces, b"next\n")
        assert kept == line + b"next\n"
        assert not told
        assert not one.noise


def test_lines_are_held_until_they_end() -> None:
    kept, one, _ = filtered(b"hello", b" wor")
    assert kept == b""
    assert one.receive(b"ld\nand") == b"hello world\n"
    assert one.end() == b"and"
    assert one.end() == b""


def test_what_was_held_at_the_end_is_looked_at_too() -> None:
    assert filtered(b"AT+GCAP")[1].end() == b""
    assert filtered(b"hello\0\x01junk")[1].end() == b""


def test_a_dropped_line_takes_both_of_its_endings_along() -> None:
    for pieces in ([b"AT\r\nhi\n"], [b"AT\r", b"\nhi\n"], [b"AT", b"\r", b"\n", b"hi\n"]):
        assert filtered(*pieces)[0] == b"hi\n"
    for pieces in ([b"ho\r\nhi\n"], [b"ho\r", b"\nhi\n"], [b"ho", b"\r", b"\n", b"hi\n"]):
        assert filtered(*pieces)[0] == b"ho\r\nhi\n"


def test_control_characters_are_let_through_once_the_device_has_spoken() -> None:
    assert filtered(b"hi\x02\n")[0] == b""
    assert filtered(b"hi\nhi\x02\n")[0] == b"hi\nhi\x02\n"


def test_a_long_line_is_refused_by_whoever_reads_lines() -> None:
    line = b"x" * (MAX_LINE + 5) + b"\n"
    assert filtered(line, b"hi\n")[0] == line + b"hi\n"
    pieces = [line[at : at + 100] for at in range(0, len(line), 100)]
    assert filtered(*pieces, b"hi\n")[0] == line + b"hi\n"


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_frames_begin_with_the_first_sound_one(size: int) -> None:
    frames = encode(b"\1\0\0\0hello\nworld\n") + encode(b"\2\0\0\0" + bytes(range(256)))
    junk = b"\xfe\0\0\x12\n\0AT\n\0"
    data = junk + frames
    kept, one, told = filtered(*[data[at : at + size] for at in range(0, len(data), size)])
    assert kept.endswith(frames)
    assert kept.count(b"\n") == frames.count(b"\n") + kept[: -len(frames)].count(b"\n")
    assert not told
    assert not one.undecided
    assert one.receive(b"AT\n\xff") == b"AT\n\xff"


def test_a_zero_in_junk_does_not_end_lines_of_text() -> None:
    kept, one, _ = filtered(b"\x80\0\xff\0\x12\n", b"hello\n")
    assert kept == b""
    assert one.undecided
    assert one.settle() == b"hello\n"
    assert not one.undecided
    assert one.receive(b"again\n") == b"again\n"


def test_a_line_that_a_zero_cuts_is_dropped() -> None:
    kept, one, _ = filtered(b"half a li\0ne\nwhole\n")
    assert kept + one.settle() == b"ne\nwhole\n"


def test_opening_anew_begins_anew_but_tells_nothing_twice() -> None:
    kept, one, told = filtered(encode(b"\1\0\0\0"), b"\0hi")
    assert kept
    one.restart()
    assert one.receive(b"AT\nho\n") == b"ho\n"
    one.restart()
    assert one.receive(b"AT\nho\n") == b"ho\n"
    assert told == [strays.PROBE]


def test_random_bytes_are_bounded_and_pass_no_question() -> None:
    rng = random.Random(7)
    told: list[str] = []
    one = Strays(told.append)
    for _ in range(2000):
        kept = one.receive(rng.randbytes(rng.randrange(1, 200)))
        if one.undecided and rng.random() < 0.1:
            kept += one.settle()
        for line in kept.splitlines():
            line.decode()
        assert len(one._frame) <= MAX_FRAME
        assert len(one._text) <= MAX_LINE + 4096
