"""Conversations: scenes strung together, each a question and its answer or several of them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from edgellm.training.dialogues.commands import (
    command,
    everything,
    follow_up,
    setting,
    timed_command,
    two_things,
)
from edgellm.training.dialogues.conversation import Conversation
from edgellm.training.dialogues.questions import hint, incomplete, measure, status
from edgellm.training.dialogues.talk import cannot, gibberish, off_topic, small_talk

SCENES: tuple[tuple[Callable[[Conversation], None], float], ...] = (
    (command, 28), (follow_up, 16), (setting, 12), (timed_command, 10), (incomplete, 8),
    (status, 10), (small_talk, 22), (off_topic, 8), (cannot, 4), (two_things, 4), (everything, 2),
    (hint, 3), (gibberish, 3), (measure, 2),
)  # fmt: skip
"""Scenes and how often they come, relative to each other."""


def scene(c: Conversation) -> None:
    """Add one scene, drawn by its weight."""
    acts, weights = zip(*SCENES, strict=True)
    c.rng.choices(acts, weights)[0](c)


def conversation(rng: Random, scenes: int, held_out: bool = False) -> list[tuple[str, str]]:
    """(question, answer) turns of a conversation of that many scenes."""
    c = Conversation(rng, held_out)
    for _ in range(scenes):
        scene(c)
    if not c.turns:
        command(c)
    return c.turns
