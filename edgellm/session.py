"""Session: one conversation; Slot: the key-value memory that it occupies while it has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

if TYPE_CHECKING:
    from edgellm.adapter_choice import Strengths
    from edgellm.answer import Answer
    from edgellm.tools.grammar import Grammar
    from edgellm.tools.tool import Tool
    from edgellm.turn import Turn


class Called(TypedDict):
    """A call of a tool."""

    number: int
    name: str
    arguments: dict[str, Any]


class Message(TypedDict):
    role: str
    """"system", "user", "assistant", or "tool" for the result of a call."""
    content: str
    call: NotRequired[Called]
    """An assistant's message may end with a call; a result tells which one it is of."""


@dataclass(eq=False)
class Slot:
    """One of the executor's slots, and what its memory holds."""

    index: int
    tokens: list[int] = field(default_factory=list)
    """Token by token, the positions that are filled. They stay when the owner leaves, so that a
    prompt that begins alike needn't be computed again."""
    strengths: Strengths = ()
    """Of the executor's adapters, with which they were computed."""
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
    """The answer under way, or the last one; of a turn's several ones the newest."""
    turn: Turn | None = None
    """The turn under way, or the last one, until it's settled."""
    tools: Sequence[Tool] = ()
    grammars: Mapping[str, Grammar] = field(default_factory=dict)
    """Of calls of these tools, by the text that they begin with."""
    calls: int = 0
    """How many calls of tools there have been."""
    number: int = 0
    """Of the newest question."""

    @property
    def answering(self) -> bool:
        """Whether an answer, or a turn that it's a part of, is under way."""
        if self.turn is not None and not self.turn.ended:
            return True
        return self.answer is not None and not self.answer.ended


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many leading tokens are the same."""
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return index
    return min(len(left), len(right))
