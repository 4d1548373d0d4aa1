"""A conversation under way: what was said, and how a person words a request."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from edgellm.training.dialogues.actions import Action
from edgellm.training.dialogues.noise import finish, mistype_around
from edgellm.training.dialogues.things import Thing

BEFORE = (
    "please ", "please ", "could you ", "can you ", "would you ", "hey, ", "hey ", "edgellm, ",
    "now ", "just ",
    "can you please ", "could you please ", "i want you to ", "i'd like you to ", "go ahead and ",
    "ok, ", "ok ",
    "would you please ", "hi, ", "hello, ", "and ", "then ", "you can ", "will you ", "quickly ",
    "so ",
    "please can you ", "we need to ", "let's ", "time to ", "don't forget to ", "you should ",
    "hi edgellm, ",
)  # fmt: skip
AFTER = (
    " please", " please", " please", ", please", " now", " for me", " right now", ", thanks",
    " quickly",
    ", will you", " for a moment", " at once", " immediately", ", edgellm", " ok", " if you can",
    " thanks",
    ", thank you", ", would you", " for us",
)  # fmt: skip


@dataclass
class Conversation:
    """Turns said so far, and what later turns may refer to."""

    rng: Random
    held_out: bool = False
    turns: list[tuple[str, str]] = field(default_factory=list)
    """(question, answer), in order."""
    last: tuple[str, Thing] | None = None
    """The latest action, a key of ACTIONS, and its thing."""

    def say(self, question: str, answer: str, asking: bool = False) -> None:
        self.turns.append((finish(question, self.rng, asking), answer))

    def ask_for(self, action: Action) -> str:
        """A way to ask for `action`, with `{x}` left open."""
        if self.held_out and action.unseen and self.rng.random() < 0.4:
            return self.rng.choice(action.unseen)
        template = self.rng.choice(action.asks)
        if self.rng.random() < 0.12:
            template = mistype_around(template, self.rng)
        return template

    def politely(self, text: str) -> tuple[str, bool]:
        """`text` in the trimmings of a request, and whether it became a question."""
        rng, before = self.rng, ""
        if rng.random() < 0.25 and not text.startswith(("i ", "i'd", "{x}", "on ", "off ", "{y}")):
            before = rng.choice(BEFORE)
            text = before + text
        if rng.random() < 0.16:
            text += rng.choice(AFTER)
        return text, "you" in before and "want" not in before and rng.random() < 0.7


def done(action: Action, x: Thing, when: str = "") -> str:
    """The answer once `action` is under way."""
    if action.doing:
        return f"OK, {action.state} {x.answer}{when}."
    return f"OK, {x.state(action.state)}{when}."
