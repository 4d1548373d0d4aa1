"""What of a conversation goes into a prompt."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence

from edgellm.session import Message

INVISIBLE = "\u200b"
"""Zero-width space: breaks up a special token written out in a user's text."""


def breaker(control: Collection[str]) -> Callable[[str], str]:
    """A function that breaks up the texts of `control` wherever they stand in another."""
    longest_first = sorted(control, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
    return lambda text: pattern.sub(lambda match: match[0][0] + INVISIBLE + match[0][1:], text)


def fit(
    messages: list[Message],
    first: int,
    context: int,
    room: int,
    encode: Callable[[Sequence[Message]], list[int]],
) -> tuple[list[int], int]:
    """The prompt's tokens, and how many of the oldest turns had to be dropped from `messages` for
    them; the `first` messages stay.

    When there's no `room` for an answer, turns go until half of the context is free: each drop
    means computing the prompt anew, so it should be rare.
    """
    tokens = encode(messages)
    begins = [at for at, message in enumerate(messages) if message["role"] == "user"]
    turns = len(begins) - 1  # besides the newest
    if len(tokens) + room <= context or not turns:
        return tokens, 0

    def without(count: int) -> list[int]:
        return encode(messages[:first] + messages[begins[count] :])

    # The fewest that free half of the context; all, if only that or not even that helps.
    dropped = 1 + bisect_left(
        range(1, turns), True, key=lambda count: len(without(count)) <= context // 2
    )
    tokens = without(dropped)
    del messages[first : begins[dropped]]
    return tokens, dropped


def continued(messages: Sequence[Message]) -> str:
    """The text that a model without a chat format goes on with: each question in a new line, each
    continuation right after its question."""
    text = ""
    for message in messages:
        if text and message["role"] != "assistant":
            text += "\n"
        text += message["content"]
    return text
