"""edgellm status: how a running service is, from another terminal or machine."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping

from edgellm.commands import columns
from edgellm.commands import link as device
from edgellm.commands import options as shared
from edgellm.errors import LinkError, UsageError

EPILOG = """\
examples:
  edgellm status tcp://127.0.0.1:7070
  edgellm status unix:///run/user/1000/edgellm.sock --json

Model, heat and throttling, threads at work, sessions, queue and speed.
exit status: 6 if there is no service, or it doesn't let us in
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("url", metavar="URL", help="where the service is, as in `edgellm serve`")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.add_argument(
        "--timeout",
        type=float,
        default=5.0,
        metavar="S",
        help="give up after so many seconds (default: 5)",
    )
    device.add_secret(parser)


def main(options: argparse.Namespace) -> int:
    if not options.timeout > 0:
        raise UsageError(f"--timeout is {options.timeout:g}; give seconds, more than 0")
    status = asyncio.run(asked(options))
    if options.json:
        import json

        print(json.dumps(status, indent=2, ensure_ascii=False))
    else:
        print(columns.aligned([(shown(name), shown(value)) for name, value in status.items()]))
    return 0


async def asked(options: argparse.Namespace) -> Mapping[str, object]:
    """What the service says. Raises LinkError where it says nothing in time."""
    from edgellm.client import Client

    told: list[str] = []
    secret = device.known_secret(options)
    try:
        async with asyncio.timeout(options.timeout):
            async with Client(
                options.url, name="edgellm status", secret=secret, tell=told.append
            ) as client:
                return await client.status()
    except TimeoutError as error:
        reason = told[-1] if told else f"{options.url}: no answer within {options.timeout:g} s"
        raise LinkError(
            reason.removesuffix("; waiting for it").removesuffix("; coming back")
        ) from error


def shown(value: object) -> str:
    """A name or a value of a peer's, for people."""
    return "-" if value is None else shared.printable(str(value))
