from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import pty
import socket
import sys
import termios
import threading
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import serial
import serial.rfc2217
from fake_ports import Machine
from scripted import HOLD, ScriptedService

from edgellm.link.loose import frame, say_hello
from edgellm.link.messages import Hello
from edgellm.wire import serial_wire
from edgellm_plugins import serial_channel
from edgellm_plugins.serial_channel import Device, SerialChannel, _trouble, edgellm_channel

TIOCGEXCL = 0x80045440
"""Asks Linux whether a terminal is for one program alone; Python has no name for it."""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serial_channel, "RETRY", 0.02)
    monkeypatch.setattr(serial_wire, "POLL", 0.02)


class Board:
    """A device on a pseudo-terminal, plugged in under the name `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.got = b""

    def plug(self) -> None:
        self.master, slave = pty.openpty()
        os.set_blocking(self.master, False)
        self.path.symlink_to(os.ttyname(slave))
        self.slave = slave  # held, so that the settings outlive whoever opens the port

    def unplug(self) -> None:
        self.path.unlink(missing_ok=True)
        for fd in (self.slave, self.master):
            with contextlib.suppress(OSError):
                os.close(fd)

    def say(self, text: str) -> None:
        os.write(self.master, text.encode())

    async def until(self, end: str) -> str:
        """All that came since the last call, which ends with `end`."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(20):
            while not self.got.endswith(end.encode()):
                readable = asyncio.Event()
                loop.add_reader(self.master, readable.set)
                await readable.wait()
                loop.remove_reader(self.master)
                with contextlib.suppress(BlockingIOError):
                    self.got += os.read(self.master, 1 << 16)
        got, self.got = self.got.decode(), b""
        return got


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    board = Board(tmp_path / "ttyACM0")
    board.plug()
    yield board
    board.unplug()


class Told:
    """What the channel has told on standard error."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.text = ""

    async def until(self, part: str) -> str:
        async with asyncio.timeout(20):
            while part not in self.text:
                await asyncio.sleep(0.001)
                self.text += self.capsys.readouterr().err
        told, self.text = self.text, ""
        return told


@contextlib.asynccontextmanager
async def serving(
    url: str, capsys: pytest.CaptureFixture[str], service: ScriptedService | None = None
) -> AsyncIterator[tuple[Told, ScriptedService]]:
    service = service or ScriptedService()
    task = asyncio.create_task(SerialChannel(url).serve(service))
    try:
        yield Told(capsys), service
    finally:
        task.cancel()
        async with asyncio.timeout(20):
            with pytest.raises(asyncio.CancelledError):
                await task


def test_schemes() -> None:
    assert isinstance(edgellm_channel("serial:///dev/ttyACM0"), SerialChannel)
    assert isinstance(edgellm_channel("loop://"), SerialChannel)
    assert edgellm_channel("tcp://127.0.0.1:7070") is None


def test_chat(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with serving(f"serial://{board.path}?baud=9600", capsys) as (told, service):
            assert "at 9600 baud" in await told.until("# listening on")
            board.say("hellö\r\n")
            assert await board.until("\n") == "hellö\n"
            board.say("/status\r")
            assert await board.until("\n") == "# model scripted, sessions 1\n"
            settings = termios.tcgetattr(board.slave)
            assert settings[4] == termios.B9600
            assert not settings[2] & termios.HUPCL
        assert service.closed == [f"serial://{board.path}?baud=9600#1"]

    asyncio.run(main())


def test_answers_are_not_altered_by_the_port(
    board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "".join(map(chr, range(1, 256))) + "\n\r\n"

    async def main() -> None:
        service = ScriptedService(lambda _: [text])
        async with serving(f"serial://{board.path}", capsys, service) as (told, _):
            await told.until("# listening on")
            board.say("go\n")
            assert await board.until("\r\n\n") == text + "\n"

    asyncio.run(main())


def test_long_answers(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        service = ScriptedService(lambda _: ["0123456789" * 1000] * 20 + ["."])
        async with serving(f"serial://{board.path}", capsys, service) as (told, _):
            await told.until("# listening on")
            board.say("go\n")
            assert await board.until(".\n") == "0123456789" * 20000 + ".\n"

    asyncio.run(main())


def test_a_port_that_is_not_there_yet_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = Board(tmp_path / "ttyACM0")

    async def main() -> None:
        async with serving(f"serial://{board.path}", capsys) as (told, _):
            await told.until("not there; waiting for it\n")
            board.plug()
            assert "waiting" not in await told.until("# listening on")
            board.say("hello\n")
            assert await board.until("\n") == "hello\n"
            board.unplug()
            await told.until("waiting for it")

    asyncio.run(main())


def test_unplugging_ends_the_answer_and_replugging_begins_anew(
    board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        service = ScriptedService(lambda text: [text, HOLD, "!"])
        async with serving(f"serial://{board.path}", capsys, service) as (told, _):
            for number in range(1, 6):
                await told.until("# listening on")
                board.say("half a quest")
                board.say("ion\n")
                await board.until("question")
                board.unplug()
                await told.until("unplugged")
                assert service.closed[-1].endswith(f"#{number}")
                assert service.answers[-1].stopped.is_set()
                board.plug()
            await told.until("# listening on")
            service.release.set()
            board.say("hello\n")
            assert await board.until("\n") == "hello!\n"

    asyncio.run(main())


def test_a_port_in_use_is_waited_for(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    held = os.ttyname(board.slave)
    code = "import sys, serial; port = serial.Serial(sys.argv[1], exclusive=True); input(print())"

    async def main() -> None:
        other = await asyncio.create_subprocess_exec(
            sys.executable, "-uc", code, held, stdin=PIPE, stdout=PIPE
        )
        assert other.stdout
        assert await other.stdout.readline() == b"\n"
        async with serving(f"serial://{board.path}", capsys) as (told, _):
            told_ = await told.until("waiting until it lets go\n")
            assert f"(process {other.pid})" in told_
            await other.communicate(b"\n")
            await told.until("# listening on")

    asyncio.run(main())


def test_nobody_else_can_open_the_port(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with serving(f"serial://{board.path}", capsys) as (told, _):
            await told.until("# listening on")
            with pytest.raises(serial.SerialException, match="lock port"):
                serial.Serial(str(board.path), exclusive=True)
            # Root may do everything, so that what keeps others out is asked of the kernel.
            assert any(fcntl.ioctl(board.slave, TIOCGEXCL, bytes(4)))
        assert not any(fcntl.ioctl(board.slave, TIOCGEXCL, bytes(4)))

    asyncio.run(main())


def test_troubles_name_the_remedy() -> None:
    assert _trouble("/dev/nothing", PermissionError(errno.EACCES, "no")).startswith("no permission")
    assert "strange" in _trouble("/dev/nothing", serial.SerialException("strange"))


def test_a_device_that_reads_nothing_is_given_up_and_served_again(
    board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(text: str) -> Iterable[object]:
        while text == "endless":
            yield "x" * 1000
        yield text

    async def main() -> None:
        service = ScriptedService(script)
        url = f"serial://{board.path}?write_timeout=0.1&baud=4000000"
        async with serving(url, capsys, service) as (told, _):
            await told.until("# listening on")
            board.say("endless\n")
            await told.until("has read too little")
            assert service.closed == [f"{url}#1"]
            await told.until("# listening on")
            board.say("hello\n")
            assert (await board.until("hello\n")).strip("x") == "hello\n"

    asyncio.run(main())


def test_stopping_does_not_wait_for_a_device_that_reads_nothing(
    board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        service = ScriptedService(lambda _: ["x" * (1 << 20)])
        async with serving(f"serial://{board.path}", capsys, service) as (told, _):
            await told.until("# listening on")
            board.say("go\n")
            async with asyncio.timeout(20):
                while not service.asked:
                    await asyncio.sleep(0.001)

    asyncio.run(main())


def test_spy_shows_what_passes(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with serving(f"spy://{board.path}", capsys) as (told, _):
            await told.until("# listening on")
            board.say("hello\n")
            assert await board.until("\n") == "hello\n"
            shown = await told.until("TX")
            assert " RX " in shown
            board.unplug()
            await told.until("line lost")

    asyncio.run(main())


def test_loop_does_not_talk_with_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ports: list[Any] = []
    make = serial.serial_for_url

    def remember(*arguments: Any, **options: Any) -> Any:
        ports.append(make(*arguments, **options))
        return ports[-1]

    monkeypatch.setattr(serial, "serial_for_url", remember)

    async def main() -> None:
        async with serving("loop://", capsys) as (told, service):
            await told.until("# listening on")
            for number in range(1, 4):
                ports[-1].write(f"question {number}\n".encode())
                async with asyncio.timeout(20):
                    while len(service.answers) < number or not service.answers[-1].ended:
                        await asyncio.sleep(0.001)
                    # The answer has to pass the loop before the next question does.
                    while ports[-1].in_waiting:
                        await asyncio.sleep(0.001)
                await asyncio.sleep(0.1)
            assert [text for _, text in service.asked] == [f"question {n}" for n in (1, 2, 3)]

    asyncio.run(main())


def test_socket(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        devices: asyncio.Queue[Any] = asyncio.Queue()
        server = await asyncio.start_server(
            lambda *streams: devices.put_nowait(streams), "127.0.0.1"
        )
        port = server.sockets[0].getsockname()[1]
        async with serving(f"socket://127.0.0.1:{port}", capsys) as (told, _):
            for _ in range(2):
                reader, writer = await devices.get()
                await told.until("# listening on")
                writer.write(b"hello\n")
                assert await asyncio.wait_for(reader.readline(), 5) == b"hello\n"
                writer.close()
                await told.until("line lost")
        server.close()

    asyncio.run(main())


class PtyPort(serial.Serial):
    """A pseudo-terminal has no modem lines; touching them is an error."""

    cts = dsr = ri = cd = dtr = rts = False


class Rfc2217Server:
    """One local port for one client, as pyserial's documentation builds it."""

    def __init__(self, device: str) -> None:
        self.port = PtyPort(device, timeout=0.02)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.serving = threading.Thread(target=self.serve)
        self.serving.start()

    def write(self, data: bytes) -> None:
        self.client.sendall(data)

    def serve(self) -> None:
        self.client, _ = self.listener.accept()
        self.manager = serial.rfc2217.PortManager(self.port, self)
        reading = threading.Thread(target=self.read)
        reading.start()
        with contextlib.suppress(OSError):
            while data := self.client.recv(4096):
                self.port.write(b"".join(self.manager.filter(data)))
        self.done = True
        reading.join()
        self.client.close()
        self.port.close()
        self.listener.close()

    def read(self) -> None:
        self.done = False
        with contextlib.suppress(OSError):
            while not self.done:
                if data := self.port.read(self.port.in_waiting or 1):
                    self.write(b"".join(self.manager.escape(data)))


@pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning")  # pyserial's
def test_rfc2217(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    server = Rfc2217Server(os.ttyname(board.slave))

    async def main() -> None:
        async with serving(f"rfc2217://{server.address}?baud=9600", capsys) as (told, _):
            await told.until("# listening on")
            board.say("hello\n")
            assert await board.until("\n") == "hello\n"
            assert server.port.baudrate == 9600

    asyncio.run(main())
    server.serving.join()


@pytest.mark.parametrize(
    ("junk", "about"),
    [
        (b"\r\nDebian GNU/Linux 12 pi ttyAMA0\r\n\r\npi login: ", "offers a login (getty)"),
        (b"AT\rATE0\rAT+GCAP\r", "ModemManager"),
        (b"[    0.000000] Booting Linux on physical CPU 0x0\r\n", "kernel messages"),
    ],
    ids=["getty", "modem manager", "kernel"],
)
def test_strays_are_no_questions_and_told_once(
    junk: bytes, about: str, board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        async with serving(f"serial://{board.path}", capsys) as (told, service):
            await told.until("# listening on")
            os.write(board.master, junk * 2)
            assert about in await told.until("\n")
            os.write(board.master, b"\nhello\n")
            assert await board.until("\n") == "hello\n"
            os.write(board.master, junk)
            board.say("\nagain\n")
            assert await board.until("\n") == "again\n"
            assert [text for _, text in service.asked] == ["hello", "again"]
        assert capsys.readouterr().err == ""

    asyncio.run(main())


def test_what_a_boot_loader_says_is_ignored_quietly(
    board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        async with serving(f"serial://{board.path}", capsys) as (told, service):
            await told.until("# listening on")
            os.write(board.master, b"\xfe\0\x80r\0l\x9c\nets Jan  8 2013,rst cause:2\r\n")
            board.say("hello\n")
            assert await board.until("\n") == "hello\n"
            assert [text for _, text in service.asked] == ["hello"]
        assert capsys.readouterr().err == ""

    asyncio.run(main())


def test_a_break_is_no_zero_byte(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with serving(f"serial://{board.path}", capsys) as (told, _):
            await told.until("# listening on")
            assert termios.tcgetattr(board.slave)[0] & termios.IGNBRK

    asyncio.run(main())


def test_a_device_is_found_under_another_number(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "root")
    device = Device("/dev/ttyACM0", machine.root)
    assert device.path() == "/dev/ttyACM0"  # not there yet
    machine.usb("ttyACM0")
    device.remember(device.path())
    machine.unplug("ttyACM0")
    assert device.path() == "/dev/ttyACM0"
    machine.usb("ttyACM1")
    assert device.path() == "/dev/ttyACM1"
    device.remember("/dev/ttyACM1")
    machine.usb("ttyACM0", serial="other", place="1-2")
    assert device.path() == "/dev/ttyACM1"


def test_another_device_under_the_name_is_not_ours_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path / "root")
    machine.usb("ttyACM0")
    device = Device("/dev/ttyACM0", machine.root)
    device.remember(device.path())
    machine.unplug("ttyACM0")
    machine.usb("ttyACM0", serial="other", place="1-2")
    with pytest.raises(FileNotFoundError):
        device.path()
    monkeypatch.setattr(serial_channel, "REPLACED", 0)
    assert device.path() == "/dev/ttyACM0"


def test_a_name_that_stays_is_not_followed(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "root")
    machine.usb("ttyACM0")
    link = tmp_path / "link"
    link.symlink_to(machine.root / "dev/ttyACM0")
    device = Device(str(link), machine.root)
    device.remember(str(link))
    machine.unplug("ttyACM0")
    machine.usb("ttyACM1")
    assert device.path() == str(link)


def test_many_lines_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boards = [Board(tmp_path / f"ttyACM{number}") for number in range(8)]

    async def main() -> None:
        service = ScriptedService()
        async with contextlib.AsyncExitStack() as stack:
            for board in boards:
                board.plug()
                url = f"serial://{board.path}"
                told, _ = await stack.enter_async_context(serving(url, capsys, service))
                await told.until("# listening on")
            for number, board in enumerate(boards):
                board.say(f"I am number {number}\n")
            for number, board in enumerate(boards):
                assert await board.until("\n") == f"I am number {number}\n"

    asyncio.run(main())
    for board in boards:
        board.unplug()


def test_a_device_that_talked_in_frames_is_asked_to_say_hello(
    board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    async def came() -> bytes:
        async with asyncio.timeout(20):
            while True:
                await asyncio.sleep(0.02)
                with contextlib.suppress(BlockingIOError):
                    return os.read(board.master, 1 << 16)

    async def main() -> None:
        async with serving(f"serial://{board.path}", capsys) as (told, service):
            for hello in (frame(Hello(1, b"", "test", 244, 1000, b"")), b"", b""):
                await told.until("# listening on")
                if hello:
                    os.write(board.master, hello)
                assert (await came() == say_hello()) is not bool(hello)
                board.unplug()
                await told.until("unplugged")
                board.plug()
            await told.until("# listening on")
            assert await came() == say_hello()
            board.say("hello\n")  # another device
            assert await board.until("\n") == "hello\n"
            board.unplug()
            await told.until("unplugged")
            board.plug()
            await told.until("# listening on")
            board.say("hello\n")
            assert await board.until("\n") == "hello\n"
            assert len(service.entered) == 1

    asyncio.run(main())
