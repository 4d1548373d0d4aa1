"""edgellm backend: check that a backend keeps its contract, or begin a new one."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import asdict
from pathlib import Path

from edgellm.commands import options as shared
from edgellm.errors import UsageError
from edgellm.terminal import printable

EPILOG = """\
examples:
  edgellm backend check cpu                  every family, type and promise, as a table
  edgellm backend check mine --quick         a part of them, in seconds
  edgellm backend check ./edgellm_mine       a module or package that isn't installed
  edgellm backend check mine --only slots --only "type Q4_0"
  edgellm backend new mine                   begin one, over NumPy, in ./edgellm-mine

Small models are made up and compared with plain NumPy, so neither files nor network are needed.
Each check runs in a process of its own: a crash, a hang or a leak is a row of the table. The exit
status is 1 if any has failed. What a backend declines to run is told, and no failure.
"""

ACTIONS = ("check", "new")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("action", choices=ACTIONS, metavar="ACTION", help="check or new")
    parser.add_argument("name", metavar="NAME", help="the backend's name; to check: or its path")
    parser.add_argument("folder", nargs="?", metavar="DIR", help="where the new one is written")
    parser.add_argument("--quick", action="store_true", help="leave out most families and types")
    parser.add_argument(
        "--only", action="append", metavar="CHECK", help="only this row of the table; repeat"
    )
    parser.add_argument(
        "--limit",
        type=shared.positive,
        default=120,
        metavar="N",
        help="seconds that a check may take (default: 120)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object a check")


def main(options: argparse.Namespace) -> int:
    if options.action == "new":
        return new(options)
    if options.folder is not None:
        raise UsageError(f"{options.folder}: a folder goes with new")
    from edgellm.conformance import suite

    passed = failed = declined = 0
    for row in suite.run(options.name, checks(options), options.limit):
        passed += row.status == "passed"
        failed += row.status == "failed"
        declined += row.status == "declined"
        if options.json:
            print(json.dumps(asdict(row)), flush=True)
        else:
            words = " ".join(printable(row.words).split())
            print(f"{row.check:<18}{row.status:<10}{row.seconds:6.1f} s  {words}", flush=True)
    if not options.json:
        print(f"{options.name}: {passed} passed, {failed} failed, {declined} declined")
    return 1 if failed else 0


def checks(options: argparse.Namespace) -> list[str]:
    """The names of those to be done. Raises UsageError for one that there isn't."""
    from edgellm.conformance.checks import CHECKS

    known = [check.name for check in CHECKS]
    for name in options.only or ():
        if name not in known:
            raise UsageError(f"no check {name!r}; there are: {', '.join(known)}")
    wanted = options.only or [check.name for check in CHECKS if check.quick or not options.quick]
    return [name for name in known if name in wanted]


def new(options: argparse.Namespace) -> int:
    from edgellm.conformance import starting_point

    name = options.name
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UsageError(f"{name!r}: a backend's name is of a-z, 0-9 and _, a letter first")
    folder = Path(options.folder or f"edgellm-{name}")
    for path in starting_point.write(name, folder):
        print(path)
    return 0
