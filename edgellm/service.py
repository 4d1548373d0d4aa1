"""Conversations: what channels ask of the runtime, on top of the scheduler."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from edgellm.answer import Answer, Request
from edgellm.channel import Priority
from edgellm.sampling import Sampling
from edgellm.scheduler import Scheduler
from edgellm.session import Message, Session, common_prefix
from edgellm.tokenizer import prompt_ids

if TYPE_CHECKING:
    from edgellm.tokenizer import Tokenizer

Render = Callable[[Sequence[Message]], str]
"""Messages to the text of a prompt that the model is to answer: a template or a named format."""
INVISIBLE = "\u200b"
"""Zero-width space: breaks up a special token written out in a user's text."""


class Conversations:
    """The contract `edgellm.channel.Service`: one conversation a session name.

    With `render` the model chats. The rendered text becomes tokens in one piece, special tokens
    included, because cutting it at the messages' borders would change the tokens of harmless text;
    texts of `control` that stand in a message itself are broken up by an invisible space first, so
    that nobody at the other end of a line can write the tokens that mark another's turn. A format
    whose marks are plain words ("### Instruction:", "USER:") can't be protected so: there a user's
    text can pass for somebody else's.

    Without `render` the model only continues text: the question is the prompt as it is, the answer
    repeats it and goes on, and the next question follows in a new line.

    A conversation that no longer fits the context loses its oldest turns, never its system message.

    Prompts are rendered and encoded in the event loop's thread. That takes milliseconds, but a
    template made to be slow may take what `edgellm.template.sandbox` allows it, two seconds and a
    little for each message, and so hold up all sessions: once a question, where turns must be
    dropped of n at most log2(n) + 3 times.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        tokenizer: Tokenizer,
        render: Render | None,
        *,
        sampling: Sampling | None = None,
        max_tokens: int = -1,
        stop: Sequence[str] = (),
        system: str = "",
        roll: bool = False,
        keep: int | None = None,
        control: Collection[str] = (),
        about: Mapping[str, object] | None = None,
    ) -> None:
        """An answer that fills the context ends, or goes on with `roll`: of what came before it,
        the first `keep` tokens stay (negative: the prompt; None: bos and the system message) and
        the newest half of the others. `about` (the model's name, …) begins the status."""
        self._scheduler = scheduler
        self._tokenizer = tokenizer
        self._render = render
        self._sampling = sampling or Sampling()
        self._max_tokens = max_tokens
        self._stop = tuple(stop)
        self._first: list[Message] = [Message(role="system", content=system)] if system else []
        longest_first = sorted(filter(None, control), key=len, reverse=True)
        self._roll = roll
        self._keep = keep
        self._control = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._about = dict(about or {})
        self._sessions: dict[str, Session] = {}
        self._dropped = 0

    @property
    def continues(self) -> bool:
        return self._render is None

    def ask(
        self,
        session: str,
        text: str,
        priority: Priority = Priority.PERSON,
        deadline_s: float | None = None,
    ) -> Answer:
        """See `Service.ask`. Raises ContextError if even the newest turn alone is too long."""
        conversation = self._session(session)
        self._scheduler.check_room(conversation, priority)
        self._settle(conversation)
        messages = [*conversation.messages, Message(role="user", content=text)]
        tokens, dropped = self._fit(messages)
        request = Request(
            tokens,
            self._sampling,
            self._max_tokens,
            self._stop,
            echo="" if self._render else text,
            reply=self._render is not None,
            keep=self._kept(tokens) if self._roll else None,
            priority=priority,
            deadline_s=deadline_s,
        )
        answer = self._scheduler.submit(conversation, request)
        conversation.messages = messages
        self._dropped += dropped
        return answer

    def forget(self, session: str) -> None:
        conversation = self._session(session)
        if conversation.answer is not None:
            conversation.answer.stop()
            conversation.answer = None
        conversation.messages = list(self._first)

    def close(self, session: str) -> None:
        if conversation := self._sessions.pop(session, None):
            self._scheduler.release(conversation)

    def status(self) -> dict[str, object]:
        return {
            **self._about,
            "sessions": len(self._sessions),
            "dropped_turns": self._dropped,
            **self._scheduler.status(),
        }

    def _session(self, name: str) -> Session:
        if name not in self._sessions:
            self._sessions[name] = Session(name, list(self._first))
        return self._sessions[name]

    def _settle(self, conversation: Session) -> None:
        """Write the last answer into the messages; a turn that brought no text is taken back."""
        answer, conversation.answer = conversation.answer, None
        if answer is None:
            return
        text = answer.text
        if self._render is None:  # the repeated question isn't the model's
            text = text.removeprefix(conversation.messages[-1]["content"])
        if text and answer.error is None:
            conversation.messages.append(Message(role="assistant", content=text))
        else:
            conversation.messages.pop()

    def _fit(self, messages: list[Message]) -> tuple[list[int], int]:
        """The prompt's tokens, and how many of the oldest turns had to be dropped for them.

        When there's no room for an answer, turns go until half of the context is free: each drop
        means computing the prompt anew, so it should be rare.
        """
        context, first = self._scheduler.context, len(self._first)
        room = context // 4
        if self._max_tokens >= 0:
            room = min(room, self._max_tokens)
        tokens = self._tokens(messages)
        turns = (len(messages) - first) // 2  # a question and its answer each
        if len(tokens) + room <= context or not turns:
            return tokens, 0

        def without(count: int) -> list[int]:
            return self._tokens(messages[:first] + messages[first + 2 * count :])

        # The fewest that free half of the context; all, if only that or not even that helps.
        dropped = 1 + bisect_left(
            range(1, turns), True, key=lambda count: len(without(count)) <= context // 2
        )
        tokens = without(dropped)
        del messages[first : first + 2 * dropped]
        return tokens, dropped

    def _kept(self, prompt: list[int]) -> int:
        """How many of the prompt's first tokens stay when the context rolls."""
        if self._keep is not None:
            return self._keep if self._keep >= 0 else len(prompt)
        # What the prompt has in common with that of another question.
        return common_prefix(prompt, self._tokens([*self._first, Message(role="user", content="")]))

    def _tokens(self, messages: Sequence[Message]) -> list[int]:
        if self._render is None:
            text = continued(messages)
        else:
            text = self._render([self._harmless(message) for message in messages])
        return prompt_ids(self._tokenizer, text, parse_special=self._render is not None)

    def _harmless(self, message: Message) -> Message:
        if message["role"] == "system":  # ours
            return message
        content = self._control.sub(
            lambda match: match[0][0] + INVISIBLE + match[0][1:], message["content"]
        )
        return Message(role=message["role"], content=content)


def continued(messages: Sequence[Message]) -> str:
    """The text that a model without a chat format goes on with: each question in a new line, each
    continuation right after its question."""
    text = ""
    for message in messages:
        if text and message["role"] != "assistant":
            text += "\n"
        text += message["content"]
    return text
