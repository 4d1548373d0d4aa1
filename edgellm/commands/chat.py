"""edgellm chat: a conversation at this terminal, or with standard input, question by line."""

from __future__ import annotations

import argparse
import asyncio

from edgellm.channel import Channel
from edgellm.commands import host, serve
from edgellm.commands import options as shared
from edgellm.runtime import Model

EPILOG = """\
examples:
  edgellm chat
  edgellm chat model.gguf -sys "You are terse."
  printf 'turn on the lamp\\nand the fan\\n' | edgellm chat

Ctrl-C stops an answer, Ctrl-D ends the chat; /new begins anew, /help tells more.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    shared.add_model(parser)
    shared.add_running(parser)
    shared.add_adapters(parser)
    shared.add_conversation(parser)
    shared.add_sampling(parser)


def main(options: argparse.Namespace) -> int:
    channel = serve.channel("console:")
    model = host.load(options)
    asyncio.run(talk(model, options, channel))
    return 0


async def talk(model: Model, options: argparse.Namespace, channel: Channel) -> None:
    async with host.conversations(model, options) as service:
        await serve.serve_one(channel, service)
