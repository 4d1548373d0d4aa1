"""edgellm link: a device at this terminal, which asks a service over a line or a socket."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.commands import options as shared
from edgellm.errors import BusyError, EdgeError, LinkError, UsageError
from edgellm.link import lines
from edgellm.link.lines import Command, Event, Lines, Question, Rejected, explain
from edgellm.terminal import printable, write
from edgellm.termination import terminable
from edgellm.wire import secret

if TYPE_CHECKING:
    from edgellm.client import Client

COMMANDS = {name: lines.COMMANDS[name] for name in ("new", "status", "help")}
EPILOG = """\
examples:
  edgellm link serial:///dev/ttyACM0?baud=115200 -p "turn on the lamp"
  printf 'turn on the lamp\\nand the fan\\n' | edgellm link tcp://127.0.0.1:7070
  edgellm link unix:///run/edgellm.sock --tools greenhouse_tools.py --trace

Without -p each line of standard input is a question; /new begins anew, /status tells how the
service is. Answers go to standard output, each ended by a newline. A line that isn't there is
waited for, and an answer goes on when the line is back.

--tools FILE.py makes this the device that has the functions of that file: the model may call them.
Their names, docstrings and type hints are what it's told: int, float, bool, str, Literal[...], and
Annotated[int, 0, 100, "percent"] for bounds and a description; or the file's list TOOLS says it.

exit status: 6 if the service doesn't let us in or has lost the answer, 7 if it's busy
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("url", metavar="URL", help="where the service is, as in `edgellm serve`")
    parser.add_argument("-p", "--prompt", metavar="TEXT", help="one question")
    parser.add_argument(
        "-n", "--predict", type=shared.positive, metavar="N", help="the most tokens of an answer"
    )
    parser.add_argument("--tools", type=Path, metavar="FILE.py", help="functions for the model")
    parser.add_argument("--name", default="edgellm link", help="what this device is called")
    parser.add_argument(
        "--timeout", type=float, metavar="S", help="give up S seconds after a question"
    )
    parser.add_argument(
        "--trace", action="store_true", help="show every frame, both ways, on standard error"
    )
    add_secret(parser)


def add_secret(parser: argparse.ArgumentParser) -> None:
    """What lets us in."""
    parser.add_argument(
        "--token",
        metavar="SECRET",
        help=f"what the service wants to hear; others may see it here: better {secret.VARIABLE}",
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="the same, from a file")


def main(options: argparse.Namespace) -> int:
    if options.timeout is not None and not options.timeout > 0:
        raise UsageError(f"--timeout is {options.timeout:g}; give seconds, more than 0")
    with terminable():
        return asyncio.run(talk(client(options), options))


def client(options: argparse.Namespace) -> Client:
    """The device that the options describe."""
    from edgellm.client import Client
    from edgellm.link.trace import Trace
    from edgellm.tools import tool_file

    begun = time.monotonic()
    directions = {True: (">", Trace()), False: ("<", Trace())}

    def watch(ours: bool, data: bytes) -> None:
        sign, trace = directions[ours]
        for line in trace.lines(data):
            print(f"{time.monotonic() - begun:9.3f} {sign} {printable(line)}", file=sys.stderr)

    return Client(
        options.url,
        name=options.name,
        secret=known_secret(options),
        tools=tool_file.read(options.tools) if options.tools else (),
        tell=tell,
        **({"watch": watch} if options.trace else {}),
    )


def known_secret(options: argparse.Namespace) -> bytes | None:
    """The secret that was given, wherever it was."""
    if options.token is not None and options.token_file is not None:
        raise UsageError("--token and --token-file exclude each other")
    if options.token_file is not None:
        return secret.read(options.token_file)
    if options.token is not None:
        return str(options.token).encode()
    return secret.from_environment()


def tell(text: str) -> None:
    """Say a line to the person at the terminal, apart from the answers."""
    print(f"# {printable(text)}", file=sys.stderr, flush=True)


async def talk(client: Client, options: argparse.Namespace) -> int:
    """Put the question, or all of standard input's; returns the exit status, of the first of these
    that has failed. A service that is lost for good ends it."""
    failed: EdgeError | None = None
    async with client:
        async for event in questions(options):
            try:
                await put(client, event, options)
            except LinkError:
                raise
            except EdgeError as error:
                if options.prompt is not None:
                    raise
                tell(str(error))
                failed = failed or error
    return failed.exit_status if failed else 0


async def put(client: Client, event: Event, options: argparse.Namespace) -> None:
    """Handle an event, again and again while the service is busy, as it asks for.

    Raises LinkError, or the last BusyError, when the time for it is up.
    """
    busy, waiting = False, None
    try:
        async with asyncio.timeout(options.timeout):
            while True:
                try:
                    await handle(client, event, options)
                    return
                except BusyError as error:
                    if not busy:
                        tell(f"{error}; waiting")
                    busy, waiting = True, error
                await asyncio.sleep(waiting.retry_ms / 1000)
                waiting = None
    except TimeoutError as error:
        seconds = options.timeout
        raise waiting or LinkError(f"{client.url}: no answer within {seconds:g} s") from error


async def handle(client: Client, event: Event, options: argparse.Namespace) -> None:
    """Print the answer to a question as it comes, or do what a command says."""
    match event:
        case Question(text):
            async for piece in client.ask(text, max_tokens=options.predict):
                write(piece)
            write("\n")
        case Command("new"):
            client.new()
        case Command("status"):
            items = (await client.status()).items()
            tell(", ".join(f"{name} {value}" for name, value in items))
        case Command():
            for line in explain(COMMANDS):
                tell(line)
        case Rejected(reason):
            raise UsageError(reason)


async def questions(options: argparse.Namespace) -> AsyncIterator[Event]:
    """The one that was given, or the lines of standard input."""
    if options.prompt is not None:
        if not options.prompt.strip():
            raise UsageError("the question is empty")
        yield Question(options.prompt)
        return
    reader = Lines(commands=COMMANDS)
    prompt = "> " if sys.stdin.isatty() else ""
    data = b"\n"
    while data:
        print(prompt, end="", file=sys.stderr, flush=True)
        data = await typed(sys.stdin.fileno())
        for event in reader.receive(data) if data else reader.receive_end():
            yield event


async def typed(descriptor: int) -> bytes:
    """What comes next. The thread that may wait for it for ever ends with the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bytes] = loop.create_future()

    def settle(data: bytes) -> None:
        if not future.done():
            future.set_result(data)

    def read() -> None:
        data = os.read(descriptor, 1 << 16)
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(settle, data)

    threading.Thread(target=read, daemon=True).start()
    return await future
