"""Session: one conversation; Slot: the key-value memory that it occupies while it has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from edgellm.answer import Answer


class Message(TypedDict):
    role: str
    """"system", "user" or "assistant"."""
    content: str


@dataclass(eq=False)
class Slot:
    """One of the executor's slots, and what its memory holds."""

    index: int
    tokens: list[int] = field(default_factory=list)
    """Token by token, the positions that are filled. They stay when the owner leaves, so that a
    prompt that begins alike needn't be computed again."""
    owner: Session | None = None
    used: int = 0
    """When an answer last began here, by a counter: clocks may jump."""


@dataclass(eq=False)
class Session:
    """One conversation."""

    name: str
    messages: list[Message] = field(default_factory=list)
    slot: Slot | None = None
    """None before the first answer, and after another session took the slot away."""
    answer: Answer | None = None
    """The answer under way, or the last one."""

    @property
    def answering(self) -> bool:
        return self.answer is not None and not self.answer.ended


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many leading tokens are the same."""
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return index
    return min(len(left), len(right))
