from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import serial
from line_simulator import CLEAN, Conditions
from noisy_line import NoisyLine
from scripted import ScriptedService

from edgellm.wire import line_quality
from edgellm.wire.line_quality import LOOP, NOBODY, SERVICE, Quality, measure
from edgellm_plugins.serial_channel import SerialChannel


class Plug:
    """What stands at the device's end of a line: sends back what comes, changed by `change`."""

    def __init__(self, path: Path, change: Callable[[bytes], bytes]) -> None:
        self.port = serial.Serial(str(path), timeout=0.02)
        self.change = change
        self.ending = False
        self.thread = threading.Thread(target=self.echo)

    def echo(self) -> None:
        while not self.ending:
            self.port.write(self.change(self.port.read(64)))

    def __enter__(self) -> Plug:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending = True
        self.thread.join()
        self.port.close()


def looped(
    tmp_path: Path,
    conditions: Conditions = CLEAN,
    change: Callable[[bytes], bytes] = lambda data: data,
) -> Quality:
    with (
        NoisyLine(tmp_path / "host", tmp_path / "device", conditions, seed=3) as line,
        Plug(line.device.path, change),
        serial.Serial(str(line.host.path), 115200) as port,
    ):
        return measure(port, 0)


def test_a_clean_loop(tmp_path: Path) -> None:
    quality = looped(tmp_path)
    assert quality == Quality(LOOP, 1024, 1024)
    assert quality.problems() == []


def test_a_noisy_loop(tmp_path: Path) -> None:
    quality = looped(tmp_path, Conditions(bit_errors=3e-4))
    assert quality.partner == LOOP
    assert 1e-5 < quality.error_rate < 1e-2
    (problem,) = quality.problems()
    assert "is damaged or lost" in problem.text
    assert "grounds" in problem.remedy


def test_a_loop_with_flow_control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_quality, "PATIENCE", 0.05)
    quality = looped(tmp_path, change=lambda data: data.translate(None, b"\x11\x13"))
    assert quality.swallowed == (0x11, 0x13)
    (problem,) = quality.problems()
    assert "XON, XOFF" in problem.text
    assert "flow control" in problem.remedy


def test_swallowed_values_name_what_may_be_at_work() -> None:
    (seven,) = Quality(LOOP, swallowed=tuple(range(128, 256))).problems()
    assert "8 data bits" in seven.remedy
    (other,) = Quality(LOOP, swallowed=(0xFF,)).problems()
    assert "0xff" in other.text


def test_a_service(tmp_path: Path) -> None:
    for conditions, errors in ((CLEAN, False), (Conditions(bit_errors=1e-3), True)):
        found: list[Quality] = []

        def examine(path: Path, found: list[Quality] = found) -> None:
            with serial.Serial(str(path), 115200) as port:
                found.append(measure(port, 0.5))

        async def main(
            conditions: Conditions = conditions, examine: Callable[[Path], None] = examine
        ) -> None:
            with NoisyLine(tmp_path / "host", tmp_path / "device", conditions, seed=3) as line:
                channel = SerialChannel(f"serial://{line.host.path}")
                task = asyncio.create_task(channel.serve(ScriptedService()))
                await asyncio.to_thread(examine, line.device.path)
                task.cancel()
                await asyncio.wait([task])

        asyncio.run(main())
        (quality,) = found
        assert quality.partner == SERVICE
        assert bool(quality.error_rate) is errors
        assert quality.sent >= 20


def test_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_quality, "TRIES", 2)
    monkeypatch.setattr(line_quality, "PATIENCE", 0.02)
    with (
        NoisyLine(tmp_path / "host", tmp_path / "device") as line,
        serial.Serial(str(line.host.path), 115200) as port,
    ):
        assert measure(port, 0) == Quality(NOBODY)
        assert Quality(NOBODY).problems() == []


def test_a_line_that_is_lost(tmp_path: Path) -> None:
    with (
        NoisyLine(tmp_path / "host", tmp_path / "device") as line,
        serial.Serial(str(line.host.path), 115200) as port,
    ):
        line.unplug()
        with pytest.raises((serial.SerialException, OSError)):
            measure(port, 0)
        line.plug()
    assert not os.path.lexists(line.host.path)
