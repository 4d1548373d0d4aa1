"""The device's end of the link: it says hello, asks, takes answers and calls, and comes back.

No I/O and no clock in here; times are seconds of a clock that never jumps. Whoever drives it
carries bytes between `receive`, `output` and a line, by `deadline` at the latest, and tells when
the line is there (`connected`) and when it's gone (`lost`). A question outlives the line: once it
is back, the answer goes on behind what is here already.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Sequence

from edgellm.errors import LinkError, UsageError
from edgellm.link.events import Called, Event, Linked, Refused, Remark, Status
from edgellm.link.fields import MAX_QUESTION
from edgellm.link.host import sign
from edgellm.link.messages import (
    Accept,
    Ask,
    Call,
    Challenge,
    Chunk,
    Failed,
    Finished,
    Hello,
    Message,
    Note,
    Ping,
    Result,
    StatusQuery,
    StatusReport,
    Tools,
    Welcome,
    pack,
)
from edgellm.link.question import Question
from edgellm.link.reliable import MAX_WINDOW, Reliable

HELLO_PAUSE = 0.05
"""Seconds until a hello is said again, beyond the time on the line of the largest frame."""
EAGER_HELLOS = 20
"""So many, and more once anybody has been heard: a noisy line loses many. Else maybe nobody is
there, and the pause becomes longer."""
LONG_HELLO_PAUSE = 1.0
SILENCE = 1.0
"""Seconds without a sound frame, beyond the time on the line of a full window, while something is
waited for, until the host is pinged."""
PING_PAUSE = 0.5
"""The same until it's pinged again."""
PINGS = 3
"""Unanswered ones after which the connection is begun anew."""
RESULTS = 16
"""Of the latest calls, kept for calls that are repeated. The model waits for few at a time."""


class Device:
    """One device's session with a host. Nothing that the host sends raises."""

    def __init__(
        self,
        name: str = "",
        *,
        secret: bytes | None = None,
        token: bytes = b"",
        number: int = 0,
        tools: Sequence[Sequence[object]] = (),
        mtu: int = 244,
        room: int = 32768,
        baud: float | None = None,
        nonce: Callable[[], int] = lambda: random.SystemRandom().getrandbits(32),
    ) -> None:
        """`token` and `number`, the last question's, go on with an earlier device's session.

        `tools` are what the model may call: name, description, parameters (a JSON Schema of an
        object) and danger (0 to 2) of each. `mtu`, `room` and `baud` are as in Reliable. Raises
        ValueError for what no message can carry.
        """
        self.token = token
        self.number = number
        """Of the last question."""
        self.linked = False
        """Whether the host has answered the hello on this line."""
        self.link = Reliable(mtu=mtu, room=room, baud=baud)
        self._name = name
        self._secret = secret
        self._make_nonce = nonce
        self._present = False  # the line
        self._window_s = MAX_WINDOW * mtu * 10 / baud if baud else 0.0
        self._nonce = 0
        self._mac = b""
        self._begun = self._hello_at = 0.0
        self._hellos = 0
        self._barred = 0.0  # until then, because our secret is wrong
        self._pinged = 0.0
        self._pings = 0
        self._question: Question | None = None
        self._anew = False
        self._querying = False
        self._trouble = ""
        self._results: OrderedDict[int, Result | None] = OrderedDict()  # None: not there yet
        self._tools = Tools([list(tool) for tool in tools])
        pack(self._tools)
        pack(self._hello())

    # What the device wants

    @property
    def asking(self) -> bool:
        """Whether a question is under way."""
        return self._question is not None

    def ask(self, text: str, **options: object) -> int:
        """Put a question; returns its number. `options` that are known: deadline (seconds),
        max_tokens, schema (a JSON Schema of the answer), adapter (a name).

        Raises UsageError for one that is too long, or put while another is under way.
        """
        if self._question is not None:
            raise UsageError("one question at a time: the last one isn't answered yet")
        number = self.number + 1
        kept = {name: value for name, value in options.items() if value is not None}
        try:
            pack(Ask(number, 0, text, kept))
        except ValueError as error:
            size = f"; a question has at most {MAX_QUESTION} bytes" if "text" in str(error) else ""
            raise UsageError(f"the question can't be sent: {error}{size}") from None
        self.number = number
        self._question = Question(number, text, kept, self._anew, self._send)
        self._anew = False
        if self.linked:
            self._question.put()
        return number

    def stop(self) -> None:
        """End the answer as far as it has come; `Answered` tells its end. A question that the host
        hasn't been told yet is dropped."""
        if self._question is not None:
            self._question.stop()
            self._anew |= self._question.ended and self._question.anew
            self._forget_ended()

    def new(self) -> None:
        """Forget the conversation when the next question is put."""
        self._anew = True

    def query(self) -> None:
        """Ask for the host's Status."""
        self._querying = True
        self._send(StatusQuery())

    def declare(self, tools: Sequence[Sequence[object]]) -> None:
        """Replace the tools. Raises ValueError for what no message can carry."""
        declared = Tools([list(tool) for tool in tools])
        pack(declared)
        self._tools = declared
        self._send(declared)

    def result(self, number: int, ok: bool, value: object) -> None:
        """What came of a call: a value of JSON's types, or a message about what went wrong.

        One that can't be sent becomes an error. A call that isn't known (any more) is left alone.
        """
        if number not in self._results:
            return
        result = Result(number, "ok" if ok else "error", value)
        try:
            pack(result)
        except ValueError as error:
            result = Result(number, "error", f"the tool's result can't be sent: {error}")
        self._results[number] = result
        self._send(result)

    # The line

    def connected(self, now: float) -> None:
        """A line is there, or there again."""
        self._present = True
        self._begin(now)

    def lost(self) -> None:
        """The line is gone."""
        self._present = self.linked = False
        self.link.close()

    def output(self, now: float) -> bytes:
        """What to write now."""
        if not self._present:
            return b""
        if self.linked:
            self._watch(now)
        if not self.linked and now >= self._hello_at:
            self.link.send(self._hello())
            self._hellos += 1
            eager = self._hellos < EAGER_HELLOS or self.link.heard > self._begun
            pause = HELLO_PAUSE if eager else LONG_HELLO_PAUSE
            self._hello_at = now + pause + self._window_s / MAX_WINDOW
        return self.link.output(now)

    def deadline(self) -> float | None:
        """When to call `output` at the latest; None: when there is something new."""
        if not self._present:
            return None
        times = [self.link.deadline()]
        if not self.linked:
            times.append(self._hello_at)
        elif self._waiting:
            times.append(self._patience())
        return min((time for time in times if time is not None), default=None)

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Take what the line brought, cut anywhere."""
        events: list[Event] = []
        for message in self.link.receive(data, now):
            if self.linked:
                events += self._take(message, now)
            else:
                events += self._shake_hands(message, now)
        if self._trouble:
            events.append(Refused(0, "bad", self._trouble))
            self._trouble = ""
        return events

    @property
    def _waiting(self) -> bool:
        return self._question is not None or self._querying or self.link.waiting > 0

    def _send(self, message: Message) -> None:
        """Queue a message, unless there's no connection: what a new one needs is said then. A host
        that has no room for it isn't one of edgellm's."""
        if not self.linked:
            return
        try:
            self.link.send(message)
        except LinkError as error:
            self._trouble = str(error)

    def _begin(self, now: float) -> None:
        self.linked = False
        self.link.close()
        self._nonce = self._make_nonce()
        self._mac = b""
        self._begun = now
        self._hello_at, self._hellos = max(now, self._barred), 0

    def _hello(self) -> Hello:
        link = self.link
        return Hello(self._nonce, self.token, self._name, link.mtu, link.room, self._mac)

    def _watch(self, now: float) -> None:
        """Notice that the host is gone or has forgotten the connection."""
        heard = self.link.heard
        if heard >= self._pinged:
            self._pings = 0
        if self.link.stuck:
            self._begin(now)
        elif self._waiting and now >= self._patience():
            if self._pings == PINGS:
                self._begin(now)
            else:
                self._pings += 1
                self._pinged = now
                self._send(Ping())

    def _patience(self) -> float:
        """When the host's silence has been too long."""
        if self.link.heard >= self._pinged:
            return self.link.heard + SILENCE + self._window_s
        return self._pinged + PING_PAUSE + self._window_s

    def _shake_hands(self, message: Message, now: float) -> list[Event]:
        match message:
            case Welcome() if message.nonce == self._nonce:
                return self._enter(message, now)
            case Challenge() if message.nonce == self._nonce:
                if self._secret is None:
                    return [Refused(0, "auth", "the host wants a secret, and there is none here")]
                self._mac = sign(self._secret, message.challenge, self._hello())
                self._hello_at = max(now, self._barred)
            case Failed(code="auth"):
                self._hello_at = self._barred = now + LONG_HELLO_PAUSE
                return [Refused(0, "auth", message.text)]
            case Failed(code="hello") if message.retry_ms:
                self._hello_at = now + message.retry_ms / 1000
                return [Refused(0, "busy", message.text, message.retry_ms, message.place)]
            case Failed(code="hello"):
                pass  # said to what the last connection left on the line
            case Failed():
                return [Refused(0, message.code, message.text, message.retry_ms, message.place)]
        return []

    def _enter(self, welcome: Welcome, now: float) -> list[Event]:
        forgotten = bool(self.token) and not welcome.resumed
        self.link.reset(welcome.mtu, welcome.room)
        self.linked = True
        self.token = welcome.token
        self._pings, self._pinged = 0, now
        events: list[Event] = [Linked(welcome.server, welcome.resumed)]
        question = self._question
        # The next question may use the tools; an answer under way doesn't wait for them.
        known = question is not None and question.asked and not forgotten
        if self._tools.tools and not known:
            self._send(self._tools)
        if forgotten:
            self._results.clear()
        if question is not None and forgotten:
            events += question.unknown("the host has forgotten this conversation")
            self._forget_ended()
        elif question is not None:
            question.put()
        if self._tools.tools and known:
            self._send(self._tools)
        if self._querying:
            self._send(StatusQuery())
        return events

    # What the host says

    def _take(self, message: Message, now: float) -> list[Event]:
        match message:
            case Failed(code="hello"):
                self._begin(now)
            case Failed(id=0):
                return [Refused(0, message.code, message.text, message.retry_ms, message.place)]
            case Note():
                return [Remark(message.text)]
            case StatusReport():
                self._querying = False
                return [Status(message.status)]
            case Call():
                return self._call(message)
            case Accept() | Chunk() | Finished() | Failed() if self._question is not None:
                events = self._question.take(message)
                self._forget_ended()
                return events
        return []

    def _forget_ended(self) -> None:
        if self._question is not None and self._question.ended:
            self._question = None

    def _call(self, call: Call) -> list[Event]:
        if call.call in self._results:
            result = self._results[call.call]
            if result is not None:
                self._send(result)
            return []
        self._results[call.call] = None
        if len(self._results) > RESULTS:
            self._results.popitem(last=False)
        return [Called(call.call, call.name, call.arguments, call.deadline_ms / 1000)]
