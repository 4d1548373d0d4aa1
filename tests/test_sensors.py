"""edgellm/sensors.py: what trees of /sys say, recorded ones and broken ones."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm import sensors
from edgellm.sensors import Reading, Sensors

BOARDS = Path(__file__).parent / "data" / "boards"


def write(root: Path, path: str, text: str) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def zone(root: Path, number: int, kind: str, celsius: float) -> Path:
    folder = f"sys/class/thermal/thermal_zone{number}"
    write(root, f"{folder}/type", f"{kind}\n")
    return write(root, f"{folder}/temp", f"{round(1000 * celsius)}\n")


def test_a_raspberry_pi() -> None:
    reading = Sensors(BOARDS / "raspberry-pi-5", ["cpu-thermal"]).read()
    assert reading == Reading(48.312, 0, None, None)


def test_the_hottest_of_a_boards_zones_counts(tmp_path: Path) -> None:
    zone(tmp_path, 0, "soc-thermal", 61)
    hot = zone(tmp_path, 1, "bigcore0-thermal", 72.5)
    zone(tmp_path, 2, "battery", 99)
    eyes = Sensors(tmp_path, ["soc-thermal", "bigcore0-thermal"])
    assert eyes.read().temperature_c == 72.5
    hot.unlink()
    assert eyes.read().temperature_c == 61
    assert Sensors(tmp_path, ["soc-thermal"]).read().temperature_c == 61


def test_without_a_profile_the_zones_of_processors_are_told_by_their_names(tmp_path: Path) -> None:
    zone(tmp_path, 0, "acpitz", 40)
    assert Sensors(tmp_path).read().temperature_c == 40
    zone(tmp_path, 1, "x86_pkg_temp", 50)
    zone(tmp_path, 2, "iwlwifi_1", 90)
    assert Sensors(tmp_path).read().temperature_c == 50
    assert Sensors(tmp_path, ["of another kernel"]).read().temperature_c == 50


def test_the_supply_and_the_clock(tmp_path: Path) -> None:
    write(tmp_path, "sys/class/hwmon/hwmon0/name", "cpu_thermal\n")
    write(tmp_path, "sys/class/hwmon/hwmon1/name", "rpi_volt\n")
    alarm = write(tmp_path, "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "0\n")
    for policy, now, most in ((0, 1800000, 1800000), (4, 1200000, 2400000)):
        folder = f"sys/devices/system/cpu/cpufreq/policy{policy}"
        write(tmp_path, f"{folder}/scaling_cur_freq", f"{now}\n")
        write(tmp_path, f"{folder}/cpuinfo_max_freq", f"{most}\n")
    eyes = Sensors(tmp_path)
    assert eyes.read() == Reading(None, None, False, 0.5)
    alarm.write_text("1\n")
    assert eyes.read().under_voltage is True


@pytest.mark.parametrize("spelled", ["50005\n", "0x50005", "throttled=0x50005"])
def test_the_firmwares_bits(tmp_path: Path, spelled: str) -> None:
    path = "sys/devices/platform/soc/soc:firmware/get_throttled"
    write(tmp_path, path, spelled)
    assert Sensors(tmp_path).read().throttled == 0x50005


def test_vcgencmd_is_asked_where_the_kernel_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    command = write(
        tmp_path, "vcgencmd", '#!/bin/sh\n[ "$1" = get_throttled ] && echo throttled=0x8\n'
    )
    command.chmod(stat.S_IRWXU)
    eyes = Sensors(tmp_path)
    assert eyes
    assert eyes.read().throttled == 8
    command.write_text("not for this machine")
    assert eyes.read().throttled is None
    monkeypatch.setattr(sensors, "ROOT", Path("/"))
    assert not Sensors(tmp_path)


@given(st.text(max_size=20))
def test_whatever_a_sensor_says_is_a_temperature_or_nothing(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    root = tmp_path_factory.mktemp("root")
    zone(root, 0, "cpu-thermal", 50).write_text(text, errors="replace")
    write(root, "sys/devices/platform/soc/firmware/get_throttled", text)
    reading = Sensors(root).read()
    assert reading.temperature_c is None or -40 <= reading.temperature_c <= 150
    assert reading.throttled is None or 0 <= reading.throttled < 1 << 32


def test_where_the_system_slows_the_processor_down(tmp_path: Path) -> None:
    zone(tmp_path, 0, "soc-thermal", 50)
    eyes = Sensors(tmp_path)
    assert eyes.trip_c() is None
    folder = "sys/class/thermal/thermal_zone0"
    for number, kind, celsius in (
        (0, "active", 62),
        (1, "critical", 115),  # no processor's
        (2, "passive", -274),
        (3, "critical", 105),
    ):
        write(tmp_path, f"{folder}/trip_point_{number}_type", f"{kind}\n")
        write(tmp_path, f"{folder}/trip_point_{number}_temp", f"{celsius}000\n")
    assert eyes.trip_c() == 95
    write(tmp_path, f"{folder}/trip_point_2_temp", "85000\n")
    assert eyes.trip_c() == 85


def test_a_machine_without_sensors(tmp_path: Path) -> None:
    assert not Sensors(tmp_path)
    assert Sensors(tmp_path).read() == Reading()
