"""Turn: one question's answer, a chain of the model's answers with calls of tools between them.

Text is free until a mark that begins a call. There the model's answer ends and the next one goes on
from its tokens, constrained to a call; then the device is waited for, and the next answer goes on
from the conversation with the call and its result. What a slot holds of all that is reused.
"""

from __future__ import annotations

import asyncio
import logging
import math
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edgellm.channel import Call, Done, Text
from edgellm.errors import BackendError, ContextError, EdgeError, ExpiredError
from edgellm.session import Called, Message, Session
from edgellm.tools.call_form import result_text

if TYPE_CHECKING:
    from edgellm.answer import Answer, Request
    from edgellm.history.turn_log import TurnLog
    from edgellm.scheduler import Scheduler
    from edgellm.tools.call_form import CallForm
    from edgellm.tools.grammar import Grammar
    from edgellm.tools.tool import Tool

log = logging.getLogger(__name__)

MAX_CALLS = 8
"""In one turn."""
CALL_S = 10.0
"""How long a device may take for a call."""


@dataclass(frozen=True)
class Calls:
    """What a turn needs to let the model call tools."""

    tools: Mapping[str, Tool]
    form: CallForm
    grammars: Mapping[str, Grammar]
    """By the text that a call begins with."""
    spell: Callable[[str], list[int]]
    prompt: Callable[[Sequence[Message]], list[int]]
    """The tokens of the conversation with these messages after the question."""
    results: Mapping[int, tuple[bool, object]] = field(default_factory=dict)
    """Of calls, by their numbers, that the device has answered before this turn began anew."""


class Turn:
    """The answer to one question; see the contract `edgellm.channel.Answer`.

    All methods are called in the event loop's thread; the model's answers are listened to right
    where they are delivered, so that the next one can follow in the same turn of the scheduler.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        session: Session,
        request: Request,
        calls: Calls | None = None,
        log: TurnLog | None = None,
        again: bool = False,
    ) -> None:
        """What becomes of the turn is written to `log`, and known to whoever listens when it's on
        disk, if it can be. One that is there `again`, since it was interrupted, has its deadline
        counted from where a listener gets text that is new to him: it may not end before that.
        Raises what `Scheduler.submit` does."""
        self.session = session
        self.messages: list[Message] = []
        """What came after the question, as far as it is complete: calls and their results."""
        self.made = 0
        """How many calls were made."""
        self._scheduler = scheduler
        self._request = request
        self._calls = calls
        self._log = log
        self._stored: asyncio.Future[bool] | None = None
        """Done when the end is on disk, if it can be."""
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._due = math.inf  # when the deadline is
        self._pieces: list[str] = []
        self._ends: list[int] = []  # after each piece, in bytes
        self._given = 0  # pieces
        self._kept = 0  # pieces that are in the messages
        self._spent = 0  # tokens of the answers before the one under way
        self._first: Done | None = None
        self.answer: Answer | None = None
        """The model's answer under way, or its last one."""
        if not again:
            self._count_down()
        self._mark: str | None = None  # of the call that is being written
        self._said = ""  # the text before it
        self._call: Call | None = None
        self._waits_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._end: Done | EdgeError | None = None
        self._known = False  # the end, to whoever listens
        self._listener: object = None
        self._changed = asyncio.Event()
        if calls is not None:
            request = replace(request, stop=(*request.stop, *calls.grammars))
        self._submit(request, owed=again)
        if log is not None:
            log.begin()

    # The contract

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def __aiter__(self) -> AsyncIterator[Text | Call | Done]:
        return self.listen(0)

    async def listen(self, offset: int) -> AsyncIterator[Text | Call | Done]:
        listener = self._listener = object()
        self._notify()  # the one before
        told: Call | None = None
        while self._listener is listener:
            index = bisect_right(self._ends, offset)
            if index < len(self._pieces):
                piece, end = self._pieces[index], self._ends[index]
                self._given = max(self._given, index + 1)
                # A character that the offset cuts through is left out.
                piece = piece.encode()[offset - end :].decode(errors="ignore")
                offset = end
                if piece:
                    self._count_down()
                    yield Text(piece)
            elif self._call is not None and self._call is not told:
                told = self._call
                self._count_down()
                yield replace(told, deadline_s=self._patience())
            elif self._end is not None and (self._stored is None or self._stored.done()):
                self._known = True
                if isinstance(self._end, EdgeError):
                    raise self._end
                yield self._end
                return
            else:
                await self._changed.wait()

    def result(self, number: int, ok: bool, value: object) -> None:
        if (call := self._call) is None or call.number != number:
            return
        self._take(call, ok, value)
        if self._log is None:
            self._continue(self._go_on)
        else:
            said = self.messages[-2]["content"]
            kept = self._log.called(number, said, call.name, call.arguments, ok, value)
            kept.add_done_callback(lambda _: self._continue(self._go_on))

    def _take(self, call: Call, ok: bool, value: object) -> None:
        """The result of a call is there."""
        self._call = None
        if self._timer is not None:
            self._timer.cancel()
        called = Called(number=call.number, name=call.name, arguments=dict(call.arguments))
        said = Message(role="assistant", content=self._said.rstrip("\n"), call=called)
        got = Message(role="tool", content=result_text(ok, value), call=called)
        self.messages += [said, got]
        self._kept = len(self._pieces)

    async def saved(self) -> bool:
        return self._log is None or await self._log.saved()

    def stop(self) -> None:
        if self._known:
            return
        end = self._end
        del self._pieces[self._given :], self._ends[self._given :]
        if end is None:
            if self.answer is not None and not self.answer.ended:
                self.answer.stop()  # tells its end
            else:
                self._finish("cancel")
        elif isinstance(end, Done):
            self._set_end(replace(end, reason="cancel"))
        self._notify()

    # For the conversation

    @property
    def ended(self) -> bool:
        return self._end is not None

    @property
    def failed(self) -> bool:
        return isinstance(self._end, EdgeError)

    @property
    def rest(self) -> str:
        """The text that isn't in the messages yet."""
        return "".join(self._pieces[self._kept :])

    # The chain

    def _submit(self, request: Request, after: Answer | None = None, owed: bool = False) -> None:
        if self._request.max_tokens >= 0:
            request = replace(request, max_tokens=max(0, self._request.max_tokens - self._spent))
        if self._request.deadline_s is not None:
            left = max(0.0, self._left())
            request = replace(request, deadline_s=None if left == math.inf else left)
        self.answer = None  # one without any tokens ends at once
        self.answer = self._scheduler.submit(self.session, request, self._tell, after, owed)

    def _tell(self, event: Text | Done | EdgeError) -> None:
        """What comes of the model's answer under way."""
        if isinstance(event, Text):
            if self._mark is None and not self.ended:
                if self._kept == len(self._pieces) and self.made and not self._breaks:
                    self._add("\n")  # what follows a call is a line of its own
                    self._kept += 1
                self._add(event.text)
                self._notify()
            return
        if self.ended:
            return
        if isinstance(event, EdgeError):
            late = isinstance(event, ExpiredError) and self._first is not None
            if late:
                self._finish("deadline")
            else:
                self._fail(event)
            return
        self._spent += event.tokens
        self._first = self._first or event
        if event.reason != "stop" or self.answer is None:
            self._finish(event.reason)
        elif self._mark is not None:
            self._continue(self._make_call)
        elif self._calls is not None and self.answer.generation.stop in self._calls.grammars:
            self._continue(self._write_call)
        else:
            self._finish(event.reason)

    @property
    def _breaks(self) -> bool:
        """Whether the text is at the beginning of a line."""
        return not self._pieces or self._pieces[-1].endswith("\n")

    def _add(self, piece: str) -> None:
        self._pieces.append(piece)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(piece.encode()))

    def _continue(self, step: Callable[[Calls], None]) -> None:
        """Do the next step of the chain; whatever goes wrong there ends the turn."""
        assert self._calls is not None
        if self.ended:
            return
        try:
            step(self._calls)
        except ContextError:  # there's no room to go on
            self._finish("length")
        except EdgeError as error:
            self._fail(error)
        except Exception as error:
            log.error("%s: a turn failed", self.session.name, exc_info=error)
            self._fail(BackendError(f"the answer failed ({type(error).__name__}); ask again"))

    def _write_call(self, calls: Calls) -> None:
        """The model begins a call."""
        answer = self.answer
        assert answer is not None
        assert answer.generation.stop is not None
        if self.made >= MAX_CALLS:
            self._finish("length")
            return
        self._mark, self._said = answer.generation.stop, answer.text
        request = replace(
            self._request,
            tokens=answer.generation.up_to_stop(calls.spell),
            grammar=calls.grammars[self._mark],
            stop=(),
            echo="",
            reply=False,  # it goes on, be it with a space
        )
        self._submit(request, after=answer)

    def _make_call(self, calls: Calls) -> None:
        """The model has written a call."""
        assert self.answer is not None
        assert self._mark is not None
        name, arguments = calls.form.parse(self._mark + self.answer.text, tuple(calls.tools))
        self._mark = None
        tool = calls.tools.get(name)
        wrong = "there is no such tool" if tool is None else tool.schema.mismatch(arguments)
        if wrong:  # the grammar allowed what it shouldn't have
            raise BackendError(f"the model's call of {name[:64]} isn't valid: {wrong}")
        self.made += 1
        self.session.calls += 1
        number = self.session.calls
        self._call = Call(number, name, arguments, CALL_S)
        if number in calls.results:
            self._take(self._call, *calls.results[number])
            self._continue(self._go_on)
            return
        self._waits_until = self._loop.time() + CALL_S
        self._timer = self._loop.call_later(self._patience(), self._give_up, number)
        self._notify()

    def _give_up(self, number: int) -> None:
        """The device has taken too long."""
        if self._left() <= 0:
            self._finish("deadline")
        else:
            self.result(number, False, f"no answer from the device within {CALL_S:g} s")

    def _go_on(self, calls: Calls) -> None:
        """The model goes on with the result of a call."""
        tokens = calls.prompt(self.messages)
        stop = (*self._request.stop, *calls.grammars)
        request = replace(self._request, tokens=tokens, stop=stop, echo="")
        self._submit(request, after=self.answer)

    # Ends

    def _finish(self, reason: str) -> None:
        first = self._first
        if first is None:  # stopped before the model had begun
            assert self.answer is not None
            first = self.answer.generation.done(reason)
        seconds = self._loop.time() - self._began
        self._set_end(replace(first, reason=reason, tokens=self._spent, seconds=seconds))

    def _fail(self, error: EdgeError) -> None:
        self._set_end(error)

    def _set_end(self, end: Done | EdgeError) -> None:
        self._end, self._call = end, None
        if self._timer is not None:
            self._timer.cancel()
        if self._log is not None:
            self._stored = self._log.ended(end, self.text, self.rest)
            self._stored.add_done_callback(lambda _: self._notify())
        self._notify()

    def _left(self) -> float:
        """Seconds until the turn's deadline."""
        return self._due - self._loop.time()

    def _count_down(self) -> None:
        """From here on the deadline is counted, if there is one and it isn't counted yet."""
        limit = self._request.deadline_s
        if limit is not None and self._due == math.inf:
            self._due = self._loop.time() + limit
            if self.answer is not None and not self.answer.ended:
                self.answer.expire_in(limit)

    def _patience(self) -> float:
        """Seconds that the device still has for its call."""
        return max(0.0, min(self._waits_until - self._loop.time(), self._left()))

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
