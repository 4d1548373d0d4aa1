"""edgellm chat: a conversation at this terminal, or with standard input, question by line."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.channel import Channel
from edgellm.commands import host, serve
from edgellm.commands import options as shared
from edgellm.runtime import Model

if TYPE_CHECKING:
    from edgellm.tools.toolbox import Toolbox

EPILOG = """\
examples:
  edgellm chat
  edgellm chat model.gguf -sys "You are terse."
  edgellm chat model.gguf --tools boards/clients/greenhouse_tools.py
  printf 'hello\\nwho are you?\\n' | edgellm chat

--tools FILE.py lets the model call the functions of that file, whose names, docstrings and type
hints tell it what they do. Ctrl-C stops an answer, Ctrl-D ends the chat; /new begins anew, /help
tells more.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    shared.add_model(parser)
    shared.add_running(parser)
    shared.add_adapters(parser)
    shared.add_conversation(parser)
    shared.add_sampling(parser)
    parser.add_argument("--tools", type=Path, metavar="FILE.py", help="functions for the model")


def main(options: argparse.Namespace) -> int:
    channel = serve.channel("console:")
    tools = toolbox(options)
    model = host.load(options)
    asyncio.run(talk(model, options, channel, tools))
    return 0


def toolbox(options: argparse.Namespace) -> Toolbox | None:
    """The functions that the options name. Raises UsageError for what can't be used."""
    if options.tools is None:
        return None
    from edgellm.tools import tool_file
    from edgellm.tools.toolbox import Toolbox

    return Toolbox(tool_file.read(options.tools))


async def talk(
    model: Model, options: argparse.Namespace, channel: Channel, tools: Toolbox | None
) -> None:
    async with host.conversations(model, options) as service:
        if tools is None:
            await serve.serve_one(channel, service)
            return
        from edgellm.own_tools import OwnTools

        await serve.serve_one(channel, OwnTools(service, tools))
