"""Conversations: what channels ask of the runtime, on top of the scheduler."""

from __future__ import annotations

import asyncio
import functools
import logging
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgellm import adapter_choice, prompt
from edgellm.answer import Request
from edgellm.channel import Answer, Entry, Priority
from edgellm.errors import StaleError, UnknownError, UsageError
from edgellm.history import records
from edgellm.history.kept_answer import KeptAnswer
from edgellm.history.records import Asked, Declared, Failed, Forgotten
from edgellm.history.session_registry import SessionRegistry
from edgellm.history.turn_log import TurnLog
from edgellm.notices import Notices
from edgellm.sampling import Sampling
from edgellm.scheduler import Scheduler
from edgellm.session import Message, Session, common_prefix
from edgellm.tokenizer import prompt_ids
from edgellm.tools import call_form
from edgellm.tools.grammar import Grammar, Grammars
from edgellm.turn import MAX_CALLS, Calls, Turn

if TYPE_CHECKING:
    from edgellm.history.session_store import SessionStore
    from edgellm.tokenizer import Tokenizer
    from edgellm.tools.tool import Tool

log = logging.getLogger(__name__)

MOST = 10**9
"""Tokens of an answer, and seconds until it ends: more is the same."""


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
    little for each message: once a question and a call, log2(n) + 3 times to drop some of n turns.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        tokenizer: Tokenizer,
        render: call_form.Render | None,
        *,
        sampling: Sampling | None = None,
        max_tokens: int = -1,
        stop: Sequence[str] = (),
        system: str = "",
        roll: bool = False,
        keep: int | None = None,
        control: Collection[str] = (),
        template: str | None = None,
        about: Mapping[str, object] | None = None,
        store: SessionStore | None = None,
        fingerprint: Callable[[], str] = str,
        notices: Notices | None = None,
        adapters: Sequence[str] = (),
    ) -> None:
        """An answer that fills the context ends, or goes on with `roll`: of what came before it,
        the first `keep` tokens stay (negative: the prompt; None: bos and the system message) and
        the newest half of the others. `template` is the source of what `render` renders, which may
        tell how the model calls tools. `about` (the model's name, …) begins the status, each time.

        Sessions that devices have entered are kept in `store`, else in memory. `fingerprint` tells
        the model, and what else decides its answers, from others: an answer that was interrupted
        goes on only where it is the same. `adapters` names those that the model has."""
        self._scheduler = scheduler
        self._tokenizer = tokenizer
        self._render = render
        self._sampling = sampling or Sampling()
        self._max_tokens = max_tokens
        self._stop = tuple(stop)
        self._first: list[Message] = [Message(role="system", content=system)] if system else []
        self._roll = roll
        self._keep = keep
        # Also for those who have no tools: a prompt doesn't depend on what others declare.
        self._harmless = prompt.breaker({*filter(None, control), *call_form.MARKS})
        self._form = functools.cache(lambda: call_form.choose(render, template))
        self._grammars = Grammars(tokenizer)
        self._about = about or {}
        self.notices = notices or Notices()
        self._sessions: dict[str, Session] = {}
        self._registry = SessionRegistry(store, self._is_idle, self._drop)
        self._fingerprint = fingerprint
        self._adapters = tuple(adapters)
        self._closing = False
        self._dropped = 0

    @property
    def continues(self) -> bool:
        return self._render is None

    def enter(self, token: bytes | None, lost: Callable[[], None]) -> Entry:
        """See `Service.enter`."""
        return self._registry.enter(token, lost)

    def leave(self, session: str) -> None:
        self._registry.leave(session)

    def ask(
        self,
        session: str,
        text: str | None,
        priority: Priority = Priority.PERSON,
        deadline_s: float | None = None,
        *,
        number: int | None = None,
        max_tokens: int | None = None,
        schema: Mapping[str, object] | None = None,
        adapter: str | None = None,
    ) -> Answer:
        """See `Service.ask`. Raises ContextError if even the newest turn alone is too long."""
        conversation = self._session(session)
        if number is not None and number <= conversation.number:
            return self._known(conversation, number, priority)
        if text is None:
            raise UnknownError(f"question {number} isn't known; ask it with its text")
        adapter_choice.strengths(adapter, self._adapters)
        self._scheduler.check_room(conversation, priority)
        self._settle(conversation)
        if number is None:
            number = conversation.number + 1
        if session in self._registry and conversation.number:
            # The last answer may have made calls that the history hasn't come to know.
            conversation.calls = self._registry.history(session).call - 1 + MAX_CALLS
        seed = self._sampling.seed
        asked = Asked(
            number,
            text,
            None if max_tokens is None else min(max_tokens, MOST),
            None if deadline_s is None else float(min(deadline_s, MOST)),
            schema,
            str(secrets.randbits(64) if seed is None else seed),
            self._fingerprint(),
            past=0,
            call=conversation.calls + 1,
            time=self._registry.now,
            adapter=adapter,
        )
        return self._begin(conversation, asked, priority)

    def taken(self, session: str, number: int) -> None:
        conversation = self._session(session)
        if number == conversation.number and conversation.turn and conversation.turn.ended:
            self._settle(conversation)

    async def prepare(
        self, session: str, tools: Sequence[Tool] = (), schema: Mapping[str, object] | None = None
    ) -> None:
        """See `Service.prepare`; also what is needed to go on with a session from the disk."""
        sets: list[Sequence[object]] = [[tool.declaration() for tool in tools]]
        if session not in self._sessions and session in self._registry:
            sets.append(self._registry.history(session).tools)
        if any(sets) or schema is not None:
            await asyncio.to_thread(self._grammars.compile_all, self._form(), sets, schema)

    def declare(self, session: str, tools: Sequence[Tool]) -> None:
        """See `Service.declare`."""
        grammars = self._call_grammars(tools)
        conversation = self._session(session)
        if tuple(tools) != conversation.tools and session in self._registry:
            declared = Declared([tool.declaration() for tool in tools])
            if conversation.number:
                self._registry.save(session, declared)
            else:  # with the first question
                self._registry.note(session, declared)
        conversation.tools, conversation.grammars = tuple(tools), grammars

    def forget(self, session: str) -> None:
        conversation = self._session(session)
        if conversation.turn is not None:
            conversation.turn.stop()
            conversation.turn = None
        conversation.messages = list(self._first)
        if session in self._registry and conversation.number:
            self._registry.save(session, Forgotten())

    def close(self, session: str) -> None:
        if session in self._registry:
            self._registry.close(session)
        else:
            self._drop(session)

    def end(self) -> None:
        """The service ends: answers that are stopped from now on will go on with the next one."""
        self._closing = True

    def status(self) -> dict[str, object]:
        counts = {"sessions": len(self._sessions), "dropped_turns": self._dropped}
        return {**self._about, **counts, **self._scheduler.status()}

    def _session(self, name: str) -> Session:
        if name not in self._sessions:
            self._sessions[name] = Session(name, list(self._first))
            if name in self._registry:
                self._restore(self._sessions[name])
        return self._sessions[name]

    def _restore(self, conversation: Session) -> None:
        """Go on with a session that the registry knows."""
        known = self._registry.history(conversation.name)
        conversation.number = known.number
        try:
            conversation.tools = tuple(map(_tool, known.tools))
            conversation.grammars = self._call_grammars(conversation.tools)
        except UsageError as error:  # with this model, they can't be used
            log.info("%s: %s", conversation.name, error)
            conversation.tools = ()
        self._settle(conversation)

    def _is_idle(self, name: str) -> bool:
        return name not in self._sessions or not self._sessions[name].answering

    def _drop(self, name: str) -> None:
        if conversation := self._sessions.pop(name, None):
            if conversation.turn is not None:
                conversation.turn.stop()
            self._scheduler.release(conversation)

    def _known(self, conversation: Session, number: int, priority: Priority) -> Answer:
        """The answer to the newest question."""
        if number == conversation.number:
            if conversation.turn is not None:
                return conversation.turn
            if conversation.name in self._registry:
                turns = self._registry.history(conversation.name).turns
                if turns and turns[-1].asked.number == number:
                    return self._again(conversation, turns[-1], priority)
        raise StaleError(f"question {number} was asked before, and its answer isn't kept; ask anew")

    def _again(self, conversation: Session, past: records.Turn, priority: Priority) -> Answer:
        """The answer to the newest question, as the history has it: complete, or interrupted."""
        name, asked = conversation.name, past.asked
        if past.answered is not None:
            return KeptAnswer(past.answered, lambda: self._registry.save(name))
        if asked.model != self._fingerprint():
            self._registry.save(name, Failed(asked.number))
            reason = "was interrupted, and the model, its settings or the date have changed since"
            raise StaleError(f"question {asked.number} {reason}; ask it anew")
        self._settle(conversation)
        conversation.calls = asked.call - 1
        return self._begin(conversation, asked, priority, past)

    def _begin(
        self,
        conversation: Session,
        asked: Asked,
        priority: Priority,
        past: records.Turn | None = None,
    ) -> Turn:
        """Answer a question; with `past`, one that was interrupted, from its beginning."""
        form = None if asked.schema is None else self._grammars.of_schema(asked.schema)
        calls = None if form is not None else self._calls(conversation, past)
        messages = [*conversation.messages, Message(role="user", content=asked.text)]
        declared = () if calls is None else tuple(calls.tools.values())
        tokens, dropped = self._fit(messages, declared)
        limit = self._max_tokens
        if asked.max_tokens is not None:
            limit = min(asked.max_tokens, limit) if limit >= 0 else asked.max_tokens
        request = Request(
            tokens,
            self._sampling,
            limit,
            self._stop if form is None else (),
            echo="" if self._render or form else asked.text,
            reply=self._render is not None,
            keep=self._kept(tokens, declared) if self._roll else None,
            priority=priority,
            deadline_s=asked.deadline_s,
            grammar=form,
            strengths=adapter_choice.strengths(asked.adapter, self._adapters),
        )
        turn_log = None
        if conversation.name in self._registry:
            request = replace(request, sampling=replace(self._sampling, seed=int(asked.seed)))
            turns = sum(message["role"] == "user" for message in messages)
            turn_log = TurnLog(
                self._registry,
                conversation.name,
                replace(asked, past=turns - 1),
                known=past is not None,
                echo=request.echo,
                closing=lambda: self._closing,
            )
        turn = Turn(self._scheduler, conversation, request, calls, turn_log, again=past is not None)
        conversation.turn = turn
        conversation.messages = messages
        conversation.number = asked.number
        self._dropped += dropped
        return turn

    def _settle(self, conversation: Session) -> None:
        """Write the last answer into the messages; a turn that brought nothing is taken back."""
        turn, conversation.turn = conversation.turn, None
        if conversation.name in self._registry:
            turns = self._registry.history(conversation.name).turns
            remembered = (message for turn in turns for message in turn.messages())
            conversation.messages = [*self._first, *remembered]
            return
        if turn is None:
            return
        text = turn.rest
        if self._render is None:  # the repeated question isn't the model's
            text = text.removeprefix(conversation.messages[-1]["content"])
        if turn.messages or (text and not turn.failed):
            answer = Message(role="assistant", content=text)
            conversation.messages += [*turn.messages, answer]
        else:
            conversation.messages.pop()

    def _call_grammars(self, declared: Sequence[Tool]) -> Mapping[str, Grammar]:
        """Raises UsageError where the model can't call these tools."""
        if not declared:
            return {}
        if self._render is None:
            raise UsageError("this model only goes on with text; it can't call tools")
        return self._grammars.of_calls(self._form(), declared)

    def _calls(self, conversation: Session, past: records.Turn | None) -> Calls | None:
        """What its next turn needs to call the session's tools; one that was interrupted has those
        that it was asked with, and the results that there were."""
        declared, grammars, results = conversation.tools, conversation.grammars, {}
        if past is not None:
            declared = tuple(map(_tool, past.tools))
            grammars = self._call_grammars(declared)
            results = {call.number: (call.ok, call.value) for call in past.calls}
        if not declared:
            return None

        def prompt_with(made: Sequence[Message]) -> list[int]:
            messages = [*conversation.messages, *made]
            tokens, dropped = self._fit(messages, declared)
            if dropped:
                conversation.messages = messages[: len(messages) - len(made)]
                self._dropped += dropped
            return tokens

        return Calls(
            {tool.name: tool for tool in declared},
            self._form(),
            grammars,
            self._grammars.spell,
            prompt_with,
            results,
        )

    def _fit(self, messages: list[Message], declared: Sequence[Tool] = ()) -> tuple[list[int], int]:
        """See `prompt.fit`."""
        room = self._scheduler.context // 4
        if self._max_tokens >= 0:
            room = min(room, self._max_tokens)
        first, context = len(self._first), self._scheduler.context
        return prompt.fit(messages, first, context, room, lambda some: self._tokens(some, declared))

    def _kept(self, prompt: list[int], declared: Sequence[Tool]) -> int:
        """How many of the prompt's first tokens stay when the context rolls."""
        if self._keep is not None:
            return self._keep if self._keep >= 0 else len(prompt)
        # What the prompt has in common with that of another question.
        other = [*self._first, Message(role="user", content="")]
        return common_prefix(prompt, self._tokens(other, declared))

    def _tokens(self, messages: Sequence[Message], declared: Sequence[Tool] = ()) -> list[int]:
        if self._render is None:
            text = prompt.continued(messages)
        else:
            calling = declared or any("call" in message for message in messages)
            form = self._form() if calling else call_form.OWN
            text = form.prompt(self._render, messages, declared, self._harmless)
        return prompt_ids(self._tokenizer, text, parse_special=self._render is not None)


def _tool(declared: object) -> Tool:
    from edgellm.tools.tool import Tool  # most conversations have none

    return Tool.check(declared)
