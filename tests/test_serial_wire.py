from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import serial
from noisy_line import Terminal

from edgellm.errors import LinkError
from edgellm.wire.serial_wire import FileWire, PortWire, wire


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path / "ttyACM0")
    terminal.plug()
    yield terminal
    terminal.unplug()


def opened(terminal: Terminal) -> serial.Serial:
    return serial.Serial(str(terminal.path), timeout=0.02, write_timeout=1)


def test_both_ways(terminal: Terminal) -> None:
    async def main() -> None:
        for port in (opened(terminal), serial.serial_for_url(f"spy://{terminal.path}")):
            port.timeout = 0.02
            one = wire(port, 1)
            assert isinstance(one, FileWire if type(port) is serial.Serial else PortWire)
            await one.write(b"out")
            async with asyncio.timeout(5):
                while terminal.read() != b"out":
                    await asyncio.sleep(0.001)
            terminal.write(b"in")
            assert await asyncio.wait_for(one.read(), 5) == b"in"
            await one.close()

    asyncio.run(main())


def test_a_reader_that_is_cancelled_loses_nothing(terminal: Terminal) -> None:
    async def main() -> None:
        one = wire(opened(terminal), 1)
        got = b""
        for number in range(50):
            terminal.write(bytes((number,)))
            reading = asyncio.create_task(one.read())
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
            got += b"" if reading.cancelled() else reading.result()
        while len(got) < 50:
            got += await asyncio.wait_for(one.read(), 5)
        assert got == bytes(range(50))
        await one.close()

    asyncio.run(main())


def test_a_port_that_is_gone_again_at_once(terminal: Terminal) -> None:
    async def main() -> None:
        port = opened(terminal)
        terminal.unplug()
        one = wire(port, 1)
        with pytest.raises(LinkError, match="unplugged"):
            await one.read()
        with pytest.raises(LinkError, match="unplugged"):
            await one.write(b"x")
        await one.close()

    asyncio.run(main())


def test_who_writes_to_a_device_that_reads_nothing_gives_up(terminal: Terminal) -> None:
    async def main() -> None:
        one = wire(opened(terminal), 0.05)
        with pytest.raises(LinkError, match=r"has read too little for 0\.1 s"):
            await one.write(b"x" * (1 << 20))
        await asyncio.wait_for(one.close(), 5)

    asyncio.run(main())
    assert os.path.lexists(terminal.path)
