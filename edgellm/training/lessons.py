"""Writes lessons of the default model as chats: `python -m edgellm.training.lessons chats.jsonl`.

They are what it was trained on, in the form that `edgellm tune` reads: to rehearse while it learns
something new (`--rehearse`), or to teach another model the same.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

from edgellm import atomic_file
from edgellm.tools.call_form import result_text
from edgellm.tools.tool import Tool
from edgellm.training.devices import Turn, lesson, toolless
from edgellm.training.devices.rows import TOOLLESS

TURNS = 2
"""Of a conversation, at most."""
SEED = 1
"""Not the one that the model was trained from: it gets to see other lessons of the kind."""


def chat(rng: Random) -> dict[str, object]:
    """A conversation with the tools of a device, now and then without them, as OpenAI has it."""
    made = lesson(rng, rng.randint(1, TURNS))
    if rng.random() < TOOLLESS:
        return {"messages": _messages(toolless(made.turns))}
    return {"messages": _messages(made.turns), "tools": [_declared(tool) for tool in made.tools]}


def _declared(tool: Tool) -> dict[str, object]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters),
    }
    return {"type": "function", "function": function}


def _messages(turns: Sequence[Turn]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for turn in turns:
        found.append({"role": "user", "content": turn.question})
        for call in turn.calls:
            function = {"name": call.name, "arguments": dict(call.arguments)}
            called = {"id": f"{len(found):09d}", "type": "function", "function": function}
            found.append({"role": "assistant", "content": "", "tool_calls": [called]})
            found.append({"role": "tool", "content": result_text(call.ok, call.result)})
        found.append({"role": "assistant", "content": turn.answer})
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m edgellm.training.lessons", description=__doc__)
    parser.add_argument("file", type=Path, help="the JSON Lines file to write")
    parser.add_argument("--count", type=int, default=3000, help="conversations (%(default)s)")
    parser.add_argument("--seed", type=int, default=SEED)
    given = parser.parse_args(arguments)
    rng = Random(given.seed)
    with atomic_file.writing(given.file) as file:
        for _ in range(given.count):
            file.write(json.dumps(chat(rng), ensure_ascii=False).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
