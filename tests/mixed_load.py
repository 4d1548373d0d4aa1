"""A service under mixed load, in a process of its own:

    python mixed_load.py BUNDLE CONTEXT SLOTS TOKENS

Talks in several sessions at once, some of which begin alike, are stopped in the middle, closed, or
go on until their contexts roll, until so many tokens have been drawn. Prints how many that were,
how many answers were stopped, how often a context rolled, and the most memory that was held.
"""

from __future__ import annotations

import asyncio
import random
import sys

from edgellm import cli
from edgellm.bench.worker import peak_bytes
from edgellm.channel import Done, Text
from edgellm.commands import host
from edgellm.generation import Generation
from edgellm.service import Conversations

SHARED = "what they all begin with, " * 3


class Load:
    def __init__(self, service: Conversations, tokens: int) -> None:
        self._service, self._left = service, tokens
        self._random = random.Random(1)
        self.drawn = self.stopped = 0

    async def talk(self, number: int) -> None:
        turn = 0
        while self.drawn < self._left:
            name = f"session {number}"
            beginning = SHARED if self._random.random() < 0.5 else ""
            text = beginning + "".join(
                self._random.choices("abcdefgh ", k=self._random.randrange(9, 90))
            )
            answer = self._service.ask(name, text)
            patience = self._random.choice([3, 20, 10**9])
            async for event in answer:
                patience -= isinstance(event, Text)
                if not patience:
                    answer.stop()
                    self.stopped += 1
                if isinstance(event, Done):
                    self.drawn += event.tokens
            turn += 1
            if turn % 4 == 0:
                self._service.close(name)


def main() -> None:
    path, context, slots, tokens = sys.argv[1:]
    serving = ["serve", path, "-c", context, "-np", slots, "--channel", "console:", "-no-cnv"]
    drawing = ["--context-shift", "-n", "300", "--temp", "0.8", "--seed", "1"]
    options = cli.parser("serve").parse_args([*serving, *drawing])
    model = host.load(options, slots=int(slots))
    rolls, roll = 0, Generation._roll

    def counted(self: Generation) -> None:
        nonlocal rolls
        rolls += 1
        roll(self)

    Generation._roll = counted

    async def work() -> Load:
        async with host.conversations(model, options) as service:
            load = Load(service, int(tokens))
            async with asyncio.TaskGroup() as group:
                for number in range(int(slots) + 2):
                    group.create_task(load.talk(number))
            return load

    load = asyncio.run(work())
    print(load.drawn, load.stopped, rolls, peak_bytes())


main()
