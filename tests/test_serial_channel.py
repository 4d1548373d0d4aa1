from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import pty
import socket
import termios
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import serial
import serial.rfc2217
from scripted import HOLD, ScriptedService

from edgellm.errors import UsageError
from edgellm_plugins import serial_channel
from edgellm_plugins.serial_channel import SerialChannel, _parse, _trouble, edgellm_channel


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serial_channel, "RETRY", 0.02)
    monkeypatch.setattr(serial_channel, "POLL", 0.02)


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
        async with asyncio.timeout(5):
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
        async with asyncio.timeout(5):
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
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await task


def test_schemes() -> None:
    assert isinstance(edgellm_channel("serial:///dev/ttyACM0"), SerialChannel)
    assert isinstance(edgellm_channel("loop://"), SerialChannel)
    assert edgellm_channel("tcp://127.0.0.1:7070") is None


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
    found, options = _parse(url)
    assert found == device
    assert options["baud"] == ("9600" if "baud" in url else "115200")
    assert options["parity"] == ("E" if "parity" in url else "N")


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
        ("serial:///dev/ttyS0?dtr=", "dtr is ''; known are on, off"),
        ("serial:gopher://x", "gopher"),
    ],
)
def test_unusable_urls(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        edgellm_channel(url)


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
    async def main() -> None:
        fcntl.flock(board.slave, fcntl.LOCK_EX)
        async with serving(f"serial://{board.path}", capsys) as (told, _):
            await told.until("in use by another program")
            fcntl.flock(board.slave, fcntl.LOCK_UN)
            await told.until("# listening on")

    asyncio.run(main())


def test_troubles_name_the_remedy() -> None:
    assert "dialout" in _trouble(PermissionError(errno.EACCES, "no"))
    assert "strange" in _trouble(serial.SerialException("strange"))


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
            async with asyncio.timeout(5):
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
                async with asyncio.timeout(5):
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
