"""edgellm run: one prompt, one answer, on standard output."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from edgellm.channel import Done, Text
from edgellm.commands import host
from edgellm.commands import options as shared
from edgellm.errors import ContextError, UsageError
from edgellm.runtime import Model
from edgellm.terminal import write
from edgellm.termination import terminable
from edgellm.tools import grammar

EPILOG = """\
examples:
  edgellm run -p "who are you?"
  edgellm run -m model.gguf -n 100 --temp 0 -p "What is a heat pump?"
  git diff | edgellm run -m model.gguf -sys "Write a commit message for this change."
  edgellm run -j '{"type": "object", "properties": {"lamp": {"type": "boolean"}}}' -p "lamp on!"
  edgellm run -m stories.gguf -no-cnv --temp 0 -c 256 -p "Once upon a time"

A model with a chat format answers the prompt; one without goes on writing it, and the prompt is
printed too. The answer ends with a newline.
"""

ESCAPES = {"n": "\n", "t": "\t"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    shared.add_model(parser)
    shared.add_running(parser)
    shared.add_adapters(parser)
    parser.add_argument(
        "-p", "--prompt", metavar="TEXT", help="the prompt; without one, or '-', standard input"
    )
    parser.add_argument("-f", "--file", type=Path, metavar="FILE", help="the prompt, from a file")
    parser.add_argument(
        "-e", "--escape", action="store_true", help=r"\n, \t, \" and \\ in the prompt mean those"
    )
    parser.add_argument(
        "-j",
        "--json-schema",
        metavar="SCHEMA|FILE",
        help="answer with JSON that is valid by a JSON Schema, given as such or in a file",
    )
    parser.add_argument(
        "--no-display-prompt", action="store_true", help="don't print the prompt of raw text"
    )
    shared.add_conversation(parser)
    shared.add_sampling(parser)


def main(options: argparse.Namespace) -> int:
    with terminable():
        text, wanted = prompt(options), schema(options.json_schema)
        model = host.load(options)
        asyncio.run(answer(model, options, text, wanted))
    return 0


async def answer(
    model: Model, options: argparse.Namespace, text: str, wanted: Mapping[str, object] | None
) -> None:
    """Print the answer to `text` as it comes."""
    async with host.conversations(model, options) as service:
        hidden = text if options.no_display_prompt else ""
        notices: list[str] = []
        deaf = service.notices.listen(notices.append)
        async for event in service.ask("run", text, schema=wanted):
            match event:
                case Text(piece):
                    write(piece.removeprefix(hidden))
                    hidden = ""
                case Done():
                    write("\n")
                    deaf()
                    for notice in notices:
                        print(f"# {shared.printable(notice)}", file=sys.stderr)
                    if options.verbose:
                        print(speed(event), file=sys.stderr)
                    if wanted is not None and event.reason != "stop":
                        raise ContextError(
                            f"the JSON isn't complete: the answer was cut after {event.tokens} "
                            "tokens; allow more with -n or a longer context with -c, or bound the "
                            "schema's texts and arrays"
                        )


def schema(given: str | None) -> dict[str, object] | None:
    """A JSON Schema, or the one in a file of that name. Raises UsageError where it can't be used,
    before a model is loaded for it."""
    if given is None:
        return None
    if not given:
        raise UsageError("--json-schema is empty; give a JSON Schema, or a file that holds one")
    text = given if given.lstrip().startswith("{") else shared.read_text(Path(given))
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise UsageError("--json-schema: nested too deep") from error
    except ValueError as error:
        raise UsageError(f"--json-schema: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UsageError("--json-schema: a JSON Schema is an object, {…}")
    grammar.rules_of_schema(found)
    return found


def prompt(options: argparse.Namespace) -> str:
    """The prompt, wherever it comes from. Raises UsageError where there is none."""
    text: str | None = options.prompt
    if options.file is not None:
        if text is not None:
            raise UsageError("--prompt and --file exclude each other")
        text = shared.read_text(options.file).removesuffix("\n")
    elif text is None or text == "-":
        if text is None and sys.stdin.isatty():
            raise UsageError("no prompt; give one with -p, -f or on standard input")
        text = standard_input()
    if options.escape:
        text = re.sub(r"\\([nt\"\\])", lambda found: ESCAPES.get(found[1], found[1]), text)
    return text


def standard_input() -> str:
    """All of standard input, without its last newline."""
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UsageError("standard input is not UTF-8 text") from error


def speed(done: Done) -> str:
    """The statistics of an answer, in one line."""
    seconds = done.seconds - done.first_token_s
    rate = f", {(done.tokens - 1) / seconds:.1f} tokens/s" if done.tokens > 1 and seconds else ""
    return (
        f"{done.prompt_tokens} prompt tokens, first token after {done.first_token_s:.2f} s, "
        f"{done.tokens} tokens{rate} ({done.reason})"
    )
