"""edgellm doctor: what keeps a device from talking with this machine, and what helps."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.commands import options as shared
from edgellm.errors import UsageError
from edgellm.wire import serial_ports
from edgellm.wire.serial_ports import Port, Problem

if TYPE_CHECKING:
    from edgellm.wire.line_quality import Quality
    from edgellm.wire.serial_url import SerialUrl

EPILOG = """\
examples:
  edgellm doctor serial                              the ports, and what is wrong with them
  edgellm doctor serial /dev/ttyUSB0                 one port, and the line behind it
  edgellm doctor serial serial:///dev/ttyUSB0?baud=9600

To measure a line, join TX and RX at its far end, or run `edgellm serve` there.
exit status: 0 all is well, 1 there are problems; each is told with what helps
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("what", choices=["serial"], help="what to look at")
    parser.add_argument("url", nargs="?", metavar="URL", help="a port, as for --channel, or a path")
    parser.add_argument(
        "--seconds",
        type=float,
        default=2.0,
        metavar="S",
        help="how long to measure the line (default: 2)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.add_argument(
        "--sysroot",
        type=Path,
        default=serial_ports.ROOT,
        metavar="DIR",
        help="look at the /sys, /proc and /dev below this folder; nothing is opened",
    )


def main(options: argparse.Namespace) -> int:
    if not 0 <= options.seconds <= 3600:
        raise UsageError(f"--seconds is {options.seconds:g}; give a number from 0 to 3600")
    root: Path = options.sysroot
    if not root.is_dir():
        raise UsageError(f"--sysroot: {root} is no folder")
    ports = serial_ports.ports(root)
    line = parsed(options.url) if options.url else None
    found = problems(ports, line, root)
    quality = None
    if line is not None and not found and root == serial_ports.ROOT:
        quality, more = measured(line, options.seconds)
        found += more
    if options.json:
        import json

        about = {
            "ports": [asdict(port) for port in ports],
            "line": asdict(quality) if quality else None,
            "problems": [asdict(problem) for problem in found],
        }
        print(json.dumps(about, indent=2, ensure_ascii=False))
    else:
        show(ports, line, quality, found)
    return 1 if found else 0


def parsed(url: str) -> SerialUrl:
    """The line that a URL, or the path or name of a port, names."""
    from edgellm.wire import serial_url

    return serial_url.parse(url if serial_url.is_serial(url) else f"serial://{url}")


def problems(ports: list[Port], line: SerialUrl | None, root: Path) -> list[Problem]:
    """What can be seen without opening a port: of one, or of all."""
    if line is not None:
        if line.scheme:
            return []
        missing = serial_ports.missing(line.device, root)
        return [missing] if missing else serial_ports.problems(line.device, root)
    found = [one for port in ports for one in serial_ports.problems(port.device, root)]
    if taken := serial_ports.grabbed_by_brltty(root):
        found.append(taken)
    if not ports and not taken:
        found.append(
            Problem(
                "there is no serial port",
                "plug a device in; if it is, try another cable (many carry power only) and see "
                "what `sudo dmesg -w` says when it is plugged in",
            )
        )
    return found


def measured(line: SerialUrl, seconds: float) -> tuple[Quality | None, list[Problem]]:
    """The line's quality; or why it couldn't be measured."""
    from serial import SerialException

    from edgellm.wire import line_quality

    try:
        with line.open(exclusive=True, write_timeout=5) as port:
            quality = line_quality.measure(port, seconds)
    except (SerialException, OSError, ValueError) as error:
        trouble = f"{line.device} can't be used: {error}"
        return None, [Problem(trouble, "see what `sudo dmesg` says of it, and plug it in again")]
    return quality, quality.problems()


def show(
    ports: list[Port], line: SerialUrl | None, quality: Quality | None, found: list[Problem]
) -> None:
    """Print it all for people."""
    for port in ports:
        about = f"{port.name or '-'} {port.serial_number}".rstrip()
        print(f"{port.device}  {shared.printable(about)}")
        if port.by_id:
            print(f"    always the same name: {shared.printable(port.by_id)}")
    if line is not None and quality is not None:
        print(f"{line.device} at {line.baud} baud: {result(quality)}")
    for problem in found:
        print(f"problem: {shared.printable(problem.text)}")
        print(f"    what helps: {shared.printable(problem.remedy)}")
    if not found:
        print("no problems found")


def result(quality: Quality) -> str:
    """What was measured, in a sentence."""
    from edgellm.wire import line_quality

    if quality.partner == line_quality.LOOP:
        return (
            f"loop of TX and RX; of {quality.sent} bytes {quality.returned} came back, "
            f"{quality.wrong} of them wrong"
        )
    if quality.partner == line_quality.SERVICE:
        return (
            f"an edgellm service; it answered {quality.returned} of {quality.sent} pings, so of a "
            f"million bits {quality.error_rate * 1e6:.0f} are damaged"
        )
    return "nobody answers; join TX and RX at the far end, or run edgellm serve there"
