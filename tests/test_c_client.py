"""boards/clients/edgellm.h: built for what it is for, measured, and run against a real Host."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import random
import shutil
import struct
import subprocess
import time
import tty
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from edgellm.link.host import Host
from edgellm.link.messages import (
    Accept,
    Ask,
    Call,
    Chunk,
    Finished,
    Hello,
    Result,
    Stop,
    Taken,
    Tools,
)

ROOT = Path(__file__).resolve().parents[1]
CLIENTS = ROOT / "boards/clients"
GREENHOUSE = CLIENTS / "greenhouse"
SOURCES = ROOT / "tests/c_client"
SOAK = "EDGELLM_SOAK" in os.environ

BAUD = 115_200
FREQUENCY = 16_000_000
STEP = 0.002
"""Seconds of the simulated time between two looks at the line."""

STRICT = ("-Wall", "-Wextra", "-Werror")
AVR = ("-mmcu=atmega328p", f"-DF_CPU={FREQUENCY}UL", f"-DBAUD={BAUD}", "-std=c99", "-Os")
TOOLS: list[dict[str, Any]] = [
    {"name": "fan", "description": "Sets the fan's speed", "parameters": {"type": "object"}},
    {"name": "pump", "description": "Waters", "parameters": {"type": "object"}, "danger": 2},
]


def _need(*programs: str, package: str) -> None:
    if not all(map(shutil.which, programs)):
        pytest.skip(f"for this, apt-get install {package}")


def _run(*command: str | Path, **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def _to_c(tools: list[dict[str, Any]], source: str) -> str:
    spec = importlib.util.spec_from_file_location("tools_to_c", CLIENTS / "tools_to_c.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text: str = module.to_c(tools, source)
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where things are built, with the tools of the simulated device."""
    path = tmp_path_factory.mktemp("c_client")
    (path / "tools.h").write_text(_to_c(TOOLS, "the test"))
    return path


def _firmware(folder: Path) -> Path:
    _need("avr-gcc", package="gcc-avr avr-libc")
    built = folder / "device.elf"
    include = (f"-I{CLIENTS}", f"-I{SOURCES}", f"-I{folder}")
    _run("avr-gcc", *AVR, *STRICT, *include, SOURCES / "firmware.c", "-o", built)
    return built


# Size


def _size(prefix: str, built: Path) -> tuple[int, int]:
    """Bytes of flash and of static memory."""
    text, data, bss = map(int, _run(f"{prefix}-size", built).splitlines()[1].split()[:3])
    return text + data, data + bss


MEASURED = {"text": ("-DEDGELLM_NO_TOOLS",), "tools": ()}


@pytest.mark.parametrize(("features", "flash"), [("text", 1664), ("tools", 2048)])
def test_size_on_avr(folder: Path, features: str, flash: int) -> None:
    """What the client adds to a program that asks and stops, with its callbacks, and with a tool
    of an integer and a text but for the tool's description."""
    _need("avr-gcc", package="gcc-avr avr-libc")
    sizes = []
    for name, flags in (("without", ()), ("with", ("-DCLIENT", *MEASURED[features]))):
        built = folder / f"{name}.elf"
        include = (f"-I{CLIENTS}", f"-I{SOURCES}")
        _run("avr-gcc", *AVR, *STRICT, *include, *flags, SOURCES / "measured.c", "-o", built)
        sizes.append(_size("avr", built))
    (flash_without, memory_without), (flash_with, memory_with) = sizes
    print(f"{features}: {flash_with - flash_without} B flash, {memory_with - memory_without} B RAM")
    assert flash_with - flash_without <= flash
    assert memory_with - memory_without <= 256


@pytest.mark.parametrize(("features", "flash"), [("text", 1536), ("tools", 1856)])
def test_size_on_cortex_m0(tmp_path: Path, features: str, flash: int) -> None:
    _need("arm-none-eabi-gcc", package="gcc-arm-none-eabi")
    built = tmp_path / "measured.o"
    processor = ("-mcpu=cortex-m0plus", "-mthumb", "-std=c99", "-Os", "-ffreestanding")
    flags = (f"-I{CLIENTS}", "-DCLIENT", *MEASURED[features])
    _run(
        "arm-none-eabi-gcc", *processor, *STRICT, *flags, "-c", SOURCES / "measured.c", "-o", built
    )
    measured, memory = _size("arm-none-eabi", built)
    print(f"{features}: {measured} B flash, {memory} B RAM")
    assert measured <= flash
    assert memory <= 304


# On the simulated device, against a real Host


@pytest.fixture(scope="module")
def simulator(folder: Path) -> Path:
    _need("gcc", package="gcc")
    built = folder / "simulator"
    command = ["gcc", "-O2", f"-DBAUD={BAUD}", SOURCES / "simulator.c", "-o", built, "-lsimavr"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("for this, apt-get install libsimavr-dev")
    return built


class Device:
    """The firmware in simavr, a step of time at a time."""

    def __init__(self, simulator: Path, firmware: Path) -> None:
        self.process = subprocess.Popen(
            [simulator, firmware],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input: IO[bytes] = self.process.stdin
        self.output: IO[bytes] = self.process.stdout

    def step(self, data: bytes, seconds: float = STEP) -> tuple[bytes, bytes]:
        """What it sends and what it tells in that time, given those bytes at its beginning."""
        self.input.write(struct.pack("<IH", round(seconds * FREQUENCY), len(data)) + data)
        self.input.flush()
        return self._block(), self._block()

    def _block(self) -> bytes:
        (count,) = struct.unpack("<H", self.output.read(2))
        return self.output.read(count)

    def close(self) -> None:
        self.input.close()
        assert self.process.wait(10) == 0
        self.output.close()


class Line:
    """What the wire does to bytes: nothing, or harm by chance, or all is lost while unplugged."""

    def __init__(self, random: random.Random, errors: float, lost: float) -> None:
        self.random, self.errors, self.lost = random, errors, lost
        self.plugged = True

    def carry(self, data: bytes) -> bytes:
        if not self.plugged:
            return b""
        carried = bytearray()
        for byte in data:
            if self.random.random() < self.lost:
                continue
            if self.random.random() < 8 * self.errors:
                byte ^= 1 << self.random.randrange(8)
            carried.append(byte)
            if self.random.random() < self.lost:
                carried.append(self.random.choice((0, 0x11, 0x13, 0xFF)))
        return bytes(carried)


class Peer:
    """Stands for the service: real links, and answers and calls by chance."""

    def __init__(self, random: random.Random, calls: bool = True) -> None:
        self.random, self.calls = random, calls
        self.host = Host(baud=BAUD)
        self.questions: list[str] = []
        self.answers: dict[int, str] = {}
        self.called: dict[int, Call] = {}
        self.waiting: dict[int, int] = {}  # the call that a question's answer waits for
        self.results: dict[int, list[Result]] = {}
        self.taken: list[int] = []
        self.tools: list[Any] = []
        self.resumed: list[bool] = []
        self.token = b""
        self.stopped: list[int] = []

    def plug(self) -> None:
        """The line is new: what the host has is its sessions."""
        self.host = Host(baud=BAUD)

    def receive(self, data: bytes, now: float) -> bytes:
        for message in self.host.receive(data, now):
            match message:
                case Hello():
                    resumed = message.token == self.token != b""
                    self.token = self.token if resumed else self.random.randbytes(8)
                    self.resumed.append(resumed)
                    self.host.welcome(message, self.token, resumed)
                case Tools(tools):
                    self.tools = tools
                case Ask(id, got, text):
                    assert text is not None
                    self._ask(id, got, text)
                case Result(call):
                    self.results.setdefault(call, []).append(message)
                    for id, waiting in list(self.waiting.items()):
                        if waiting == call:
                            del self.waiting[id]
                            self._tell(id, 0)
                case Taken(id):
                    if id not in self.taken:  # said again where its acknowledgement was lost
                        self.taken.append(id)
                case Stop(id):
                    self.stopped.append(id)
        return self.host.link.output(now)

    def _ask(self, id: int, got: int, text: str) -> None:
        if id not in self.answers:
            self.questions.append(text)
            length = self.random.choice((0, 1, 44, 45, 300, 1000))
            self.answers[id] = "".join(self.random.choices("abc deé€😀\n", k=length))
            if self.calls:
                number = len(self.called) + 1
                name, arguments = self.random.choice(
                    [
                        ("fan", {"unused": "speed", "speed": self.random.randrange(101)}),
                        ("pump", {"litres": self.random.randrange(-9, 99) / 8, "mode": "gentle"}),
                        ("lamp", {}),
                    ]
                )
                self.called[number] = Call(number, name, arguments, 30_000)
                self.waiting[id] = number
        self.host.link.send(Accept(id, got))
        if id in self.waiting:
            self.host.link.send(self.called[self.waiting[id]])
        else:
            self._tell(id, got)

    def _tell(self, id: int, got: int) -> None:
        answer = self.answers[id].encode()
        self.host.link.send(Chunk(got, answer[got:].decode()))
        crc = zlib.crc32(answer)
        self.host.link.send(Finished(id, len(answer), "stop", 9, 99, crc))


def _told(told: bytes) -> tuple[list[str], list[tuple[int, bytes]]]:
    """The answers that are complete, and the calls, as the firmware tells them."""
    answers: list[str] = []
    calls: list[tuple[int, bytes]] = []
    text = bytearray()
    at = 0
    while at < len(told):
        what = told[at]
        at += 1
        if what == 1:
            text.clear()
        elif what == 2:
            answers.append(text.decode())
            text.clear()
            at += 1
        elif what == 4:
            calls.append((what, told[at : at + 1]))
            at += 1
        elif what == 5:
            calls.append((what, told[at : at + 6]))
            at += 6
        elif what == 6:
            calls.append((what, b""))
        else:
            assert what != 3, f"error {told[at : at + 1]!r}"
            text.append(what)
    return answers, calls


@pytest.fixture
def device(simulator: Path, folder: Path) -> Iterator[Device]:
    firmware = _firmware(folder)
    device = Device(simulator, firmware)
    yield device
    device.close()


@pytest.mark.parametrize(
    ("errors", "lost", "unplugging", "answers"),
    [
        (0.0, 0.0, False, 200 if SOAK else 12),
        (1e-3, 1e-4, False, 200 if SOAK else 5),
        (0.0, 0.0, True, 200 if SOAK else 6),
        (1e-3, 1e-4, True, 500 if SOAK else 3),
    ],
    ids=["clean", "noisy", "unplugged", "both"],
)
def test_answers_arrive_once(
    device: Device, errors: float, lost: float, unplugging: bool, answers: int
) -> None:
    """Every answer and every call, exactly once each, whatever the line does."""
    chance = random.Random(5)
    line, peer = Line(chance, errors, lost), Peer(chance)
    told = bytearray()
    to_device, now, unplugged_until, next_unplugging = b"", 0.0, 0.0, 0.3
    while len(peer.taken) < answers and now < 60 + 20 * answers:
        sent, said = device.step(line.carry(to_device))
        told += said
        now += STEP
        if unplugging and now >= next_unplugging:
            unplugged_until = now + chance.uniform(0.1, 1.0)
            next_unplugging = unplugged_until + chance.uniform(0.1, 1.0)
            line.plugged = False
        if not line.plugged and now >= unplugged_until:
            line.plugged = True
            peer.plug()
        to_device = peer.receive(line.carry(sent), now)

    answered, called = _told(bytes(told))
    expected = [peer.answers[id] for id in peer.taken]
    print(f"{len(expected)} answers in {now:.1f} s, connections: {peer.resumed}")
    assert len(expected) >= answers
    assert answered[: len(expected)] == expected
    assert peer.questions[0] == "Is it warm?"
    assert peer.questions[1].startswith("A question that is too long for a single frame")
    assert peer.questions[1].endswith("in here?")
    assert [tool[0] for tool in peer.tools] == ["fan", "pump"]
    # The first welcomes may have been lost; from then on there is one session.
    assert peer.resumed == sorted(peer.resumed)
    _check_calls(peer, called)


def _check_calls(peer: Peer, called: list[tuple[int, bytes]]) -> None:
    for call, (what, seen) in zip(peer.called.values(), called, strict=False):
        results = peer.results.get(call.call, [])
        assert len(set(map(repr, results))) <= 1
        if call.name == "fan":
            assert (what, seen) == (4, bytes([call.arguments["speed"]]))
            value, status = call.arguments["speed"] * 1000, "ok"
        elif call.name == "pump":
            assert (what, seen) == (5, b"gentle")
            value, status = call.arguments["litres"] * 2, "ok"
        else:
            assert what == 6
            value, status = "no such function", "error"
        assert all(r.value == value and r.status == status for r in results)
    assert len(called) in (len(peer.called), len(peer.called) - 1)


def test_reset_begins_a_new_session(simulator: Path, folder: Path) -> None:
    """A device that has lost its memory, and chooses the same nonce, is told from a lost frame."""
    firmware = _firmware(folder)
    peer, now, to_device, told = Peer(random.Random(7), calls=False), 0.0, b"", bytearray()
    for life in (1, 2):
        device, begun, peer.taken, peer.answers = Device(simulator, firmware), now, [], {}
        told.clear()
        while len(peer.taken) < 2 and now < begun + 20:
            sent, said = device.step(to_device)
            told += said
            now += STEP
            to_device = peer.receive(sent, now)
        device.close()
        assert _told(bytes(told))[0] == [peer.answers[1], peer.answers[2]]
        assert peer.resumed == [False] * life


def test_answers_arrive_over_a_pty(device: Device) -> None:
    """In real time, through the kernel's terminal driver as a serial line's bytes go."""
    peer = Peer(random.Random(6))
    device_end, host_end = pty.openpty()
    try:
        for end in (device_end, host_end):
            tty.setraw(end)
            os.set_blocking(end, False)
        told = bytearray()
        deadline = time.monotonic() + 60
        while len(peer.taken) < (100 if SOAK else 3) and time.monotonic() < deadline:
            sent, said = device.step(_read(device_end))
            told += said
            os.write(device_end, sent)
            os.write(host_end, peer.receive(_read(host_end), time.monotonic()))
        answered, called = _told(bytes(told))
        expected = [peer.answers[id] for id in peer.taken]
        assert len(expected) >= 3
        assert answered[: len(expected)] == expected
        _check_calls(peer, called)
    finally:
        os.close(device_end)
        os.close(host_end)


def _read(end: int) -> bytes:
    try:
        return os.read(end, 4096)
    except BlockingIOError:
        return b""


# On this machine


@pytest.mark.parametrize(
    "build",
    [
        ("-xc", "-std=c99"),
        ("-xc++", "-std=c++11"),
        ("-xc", "-std=c99", "-DEDGELLM_NO_TOOLS", "-DEDGELLM_MTU=160", "-DEDGELLM_CREDIT=8"),
    ],
    ids=["c", "c++", "text"],
)
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_any_frame_does_no_harm(tmp_path: Path, compiler: str, build: tuple[str, ...]) -> None:
    """20,000 sound, mutated and random frames, under the sanitizers where the compiler has them."""
    _need(compiler, package=compiler)
    base = (compiler, *build, "-O1", "-g", *STRICT, "-pedantic")
    source = (f"-I{CLIENTS}", SOURCES / "fuzz.c", "-o", tmp_path / "fuzz")
    sanitizers = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    if subprocess.run([*base, *sanitizers, *source], capture_output=True).returncode:
        _run(*base, *source)
    count, seeds = (500_000, 4) if SOAK else (20_000, 1)
    for seed in range(1, seeds + 1):
        _run(tmp_path / "fuzz", str(count), str(seed), timeout=300)


def test_greenhouse_compiles(tmp_path: Path) -> None:
    """As C++11 for an Arduino Uno, against what it needs of Arduino's core."""
    _need("avr-g++", package="gcc-avr avr-libc")
    include = (f"-I{SOURCES}", f"-I{CLIENTS}", f"-I{GREENHOUSE}")
    _run(
        *("avr-g++", "-mmcu=atmega328p", "-DARDUINO=10819", "-std=gnu++11", "-Os"),
        *(*STRICT, "-Wno-unused-parameter", *include, "-x", "c++", "-c"),
        *(GREENHOUSE / "greenhouse.ino", "-o", tmp_path / "greenhouse.o"),
    )


def test_tools_of_the_greenhouse_are_up_to_date() -> None:
    made = _to_c(json.loads((GREENHOUSE / "tools.json").read_text()), "tools.json")
    assert (GREENHOUSE / "tools.h").read_text() == made
