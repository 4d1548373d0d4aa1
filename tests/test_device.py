"""The device's end of the link, opposite a host played by hand and over a simulated line."""

from __future__ import annotations

import itertools
import os
import random
import zlib
from typing import get_args

import hostile_host
import pytest
from line_simulator import BAD, CLEAN, UNPLUGGED, Conditions, Line, talk
from virtual_link import DeviceEnd, HostEnd, Scripted, letters

from edgellm.errors import UsageError
from edgellm.link.device import EAGER_HELLOS, PINGS, Device
from edgellm.link.events import Answered, Called, Event, Linked, Piece, Refused, Remark, Status
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
    New,
    Note,
    Ping,
    Pong,
    Result,
    StatusQuery,
    StatusReport,
    Stop,
    Taken,
    Tools,
    Welcome,
)
from edgellm.link.reliable import Reliable

ANSWERS = 10_000 if os.environ.get("EDGELLM_SOAK") else 200
FRAMES = 2_000_000 if os.environ.get("EDGELLM_SOAK") else 20_000
UNPLUGGINGS = 500 if os.environ.get("EDGELLM_SOAK") else 20
BAUD = 115_200
TOKEN = b"12345678"
FAN = ("fan", "Blows.", {"type": "object", "properties": {}}, 0)


class Played:
    """A device opposite a host that says what the test wants."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.host = Reliable()
        self.now = 0.0
        self.said: list[Message] = []
        """What the device has said, but for pings and pongs."""
        self.events: list[Event] = []

    def plug(self) -> None:
        self.device.connected(self.now)
        self.carry()

    def carry(self) -> None:
        """Let bytes pass until neither end has any."""
        while True:
            there, here = self.device.output(self.now), self.host.output(self.now)
            heard = self.host.receive(there, self.now)
            self.said += [message for message in heard if not isinstance(message, Ping | Pong)]
            self.events += self.device.receive(here, self.now)
            if not there and not here:
                return

    def welcome(self, resumed: bool = False, token: bytes = TOKEN) -> None:
        hello = self.said[-1]
        assert isinstance(hello, Hello)
        self.host.reset(hello.mtu, hello.room)
        self.say(Welcome(hello.nonce, token, "played", 244, 32768, resumed))

    def say(self, *messages: Message) -> None:
        for message in messages:
            self.host.send(message)
        self.carry()

    def take(self) -> list[Event]:
        """The events since the last call."""
        events, self.events = self.events, []
        return events

    def hear(self) -> list[Message]:
        """What the device has said since the last call."""
        said, self.said = self.said, []
        return said

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while (due := self.device.deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.carry()
        self.now = end


@pytest.fixture
def played() -> Played:
    """Welcome already."""
    played = Played(Device("test", nonce=itertools.count(1).__next__))
    played.plug()
    played.welcome()
    assert played.take() == [Linked("played", False)]
    played.hear()
    return played


def done(number: int, text: str, reason: str = "stop") -> Finished:
    data = text.encode()
    return Finished(number, len(data), reason, 3, 1500, zlib.crc32(data))


def test_hello_is_said_again_until_it_is_answered() -> None:
    played = Played(Device("fän", nonce=lambda: 5))
    assert played.device.output(9.0) == b""
    assert played.device.deadline() is None
    played.plug()
    played.wait(10)
    hellos = played.hear()
    assert set(map(repr, hellos)) == {repr(Hello(5, b"", "fän", 244, 32768))}
    assert EAGER_HELLOS + 7 <= len(hellos) <= EAGER_HELLOS + 11
    played.plug()
    played.welcome()
    played.take()
    played.hear()
    played.wait(10)
    assert not played.hear()
    assert played.device.token == TOKEN


def test_an_answer(played: Played) -> None:
    number = played.device.ask("what?", max_tokens=5, schema=None)
    played.carry()
    assert played.hear() == [Ask(1, 0, "what?", {"max_tokens": 5})]
    played.say(Accept(1, 0), Chunk(0, "hä"), Chunk(3, "llo"), done(1, "hällo"))
    assert played.take() == [Piece("hällo"), Answered(number, "stop", 3, 1.5)]
    assert played.hear() == [Taken(1)]
    assert not played.device.asking
    assert played.device.ask("more") == 2


def test_an_answer_goes_on_where_the_line_was_lost(played: Played) -> None:
    played.device.ask("what?")
    played.say(Accept(1, 0), Chunk(0, "half"))
    played.device.lost()
    assert played.device.output(played.now) == b""
    played.hear()
    played.plug()
    played.welcome(resumed=True)
    hello, ask = played.hear()
    assert hello == Hello(2, TOKEN, "test", 244, 32768)
    assert ask == Ask(1, 4, None)
    # A host may begin at what is here already.
    played.say(Accept(1, 2), Chunk(2, "lf an"), Chunk(4, " answer"), done(1, "half answer"))
    pieces = [event.text for event in played.take() if isinstance(event, Piece)]
    assert pieces == ["half", " an", "swer"]


def test_a_question_that_the_host_lost_is_put_again(played: Played) -> None:
    played.device.ask("what?")
    played.carry()
    played.device.lost()
    played.plug()
    played.welcome(resumed=True)
    played.hear()
    played.say(Failed(1, "unknown", "who asks?"))
    assert played.hear() == [Ask(1, 0, "what?", {})]
    # A host that doesn't know what it was just told isn't asked for ever.
    played.say(Failed(1, "unknown", "who asks?"))
    assert played.take()[-1] == Refused(1, "unknown", "who asks?")


def test_a_forgotten_session(played: Played) -> None:
    played.device.declare([FAN])
    played.device.ask("what?")
    played.say(Call(1, "fan", {}, 5))
    played.device.result(1, True, 1)
    played.device.lost()
    played.plug()
    played.hear()
    played.plug()
    played.welcome(token=b"anothers")
    assert played.hear()[1:] == [Tools([list(FAN)]), Ask(1, 0, "what?", {})]
    played.say(Call(1, "fan", {}, 5))  # another one
    assert [type(event) for event in played.take()] == [Called, Linked, Called]
    played.say(Accept(1, 0), Chunk(0, "half"))
    played.device.lost()
    played.plug()
    played.welcome(token=b"yetother")
    assert played.take()[1:] == [
        Linked("played", False),
        Refused(1, "unknown", "the host has forgotten this conversation"),
    ]


def test_calls_are_told_once_and_answered_again(played: Played) -> None:
    played.device.ask("what?")
    played.say(Accept(1, 0), Call(7, "fan", {"percent": 40}, 500))
    played.hear()
    played.say(Call(7, "fan", {"percent": 40}, 500))
    assert played.take() == [Called(7, "fan", {"percent": 40}, 0.5)]
    assert played.hear() == []
    played.device.result(7, True, {"rpm": 1200})
    played.device.result(8, True, "nobody asked")
    played.say(Call(7, "fan", {"percent": 40}, 500))
    assert played.hear() == [Result(7, "ok", {"rpm": 1200})] * 2
    assert played.take() == []
    played.say(Call(9, "fan", {}, 500))
    played.device.result(9, True, "x" * 5000)
    played.carry()
    (result,) = played.hear()
    assert isinstance(result, Result)
    assert result.status == "error"
    assert "can't be sent" in str(result.value)


def test_tools_are_declared_on_every_connection(played: Played) -> None:
    played.device.declare([FAN])
    played.carry()
    assert played.hear() == [Tools([list(FAN)])]
    played.device.ask("what?")
    played.carry()
    played.device.lost()
    played.plug()
    played.hear()
    played.plug()
    played.welcome(resumed=True)
    assert played.hear()[1:] == [Ask(1, 0, None), Tools([list(FAN)])]
    played.device.declare([])
    played.carry()
    assert played.hear() == [Tools([])]
    with pytest.raises(ValueError, match="nested"):
        played.device.declare([["deep", nested(40)]])


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


def test_stop_new_status_and_notes(played: Played) -> None:
    played.device.stop()
    played.device.query()
    played.device.new()
    played.device.ask("what?")
    played.device.stop()
    played.device.stop()
    played.carry()
    assert played.hear() == [StatusQuery(), New(), Ask(1, 0, "what?", {}), Stop(1)]
    played.say(Accept(1, 0), Note("careful"), StatusReport({"queue": 0}), done(1, "", "cancel"))
    assert played.take() == [
        Remark("careful"),
        Status({"queue": 0}),
        Answered(1, "cancel", 3, 1.5),
    ]
    played.device.ask("again")
    played.device.stop()
    played.device.query()
    played.device.lost()
    played.plug()
    played.hear()
    played.plug()
    played.welcome(resumed=True)
    assert played.hear()[1:] == [Ask(2, 0, None), Stop(2), StatusQuery()]


def test_a_question_that_never_left_is_dropped() -> None:
    played = Played(Device("test", nonce=itertools.count(1).__next__))
    played.plug()
    played.device.new()
    played.device.ask("never mind")
    played.device.stop()
    assert not played.device.asking
    played.welcome()
    played.hear()
    played.device.ask("what?")
    played.carry()
    assert played.hear() == [New(), Ask(2, 0, "what?", {})]


def test_refusals(played: Played) -> None:
    played.device.ask("what?")
    played.say(Failed(1, "busy", "full", 500, 4), Failed(0, "tools", "no such type"))
    assert played.take() == [
        Refused(1, "busy", "full", 500, 4),
        Refused(0, "tools", "no such type"),
    ]
    assert not played.device.asking


def test_what_may_not_be_asked(played: Played) -> None:
    with pytest.raises(UsageError, match="16384 bytes"):
        played.device.ask("x" * 20000)
    with pytest.raises(UsageError, match="can't be sent"):
        played.device.ask("x", schema=nested(40))
    played.device.ask("x")
    with pytest.raises(UsageError, match="one question at a time"):
        played.device.ask("y")


@pytest.mark.parametrize(
    "messages",
    [
        [Chunk(5, "later")],
        [Chunk(0, "begun"), done(1, "other")],
        [Chunk(0, "begun"), done(1, "begun and more")],
    ],
    ids=["gap", "wrong", "short"],
)
def test_an_answer_that_is_not_the_one_that_was_begun(
    played: Played, messages: list[Message]
) -> None:
    played.device.ask("what?")
    played.say(Chunk(0, "of no question"), Accept(2, 0), Chunk(0, "of another"))
    assert played.take() == []
    played.say(Accept(1, 0), *messages)
    refused = played.take()[-1]
    assert isinstance(refused, Refused)
    assert (refused.number, refused.code) == (1, "damaged")
    assert played.hear()[-1] == Taken(1)


def test_silence(played: Played) -> None:
    played.wait(60)
    assert not played.hear()  # nothing is waited for
    played.device.ask("what?")
    played.carry()
    played.wait(30)  # each ping is answered
    assert [type(message) for message in played.hear()] == [Ask]
    played.host.close()
    played.host.receive = lambda data, now: []  # type: ignore[method-assign]
    begun = played.now
    while played.device.linked:
        played.wait(0.1)
    assert 1 + PINGS * 0.5 <= played.now - begun < 4


def test_a_host_that_lost_the_connection_asks_for_another_hello(played: Played) -> None:
    played.device.ask("what?")
    played.carry()
    played.host.close()
    played.hear()
    played.say(Failed(0, "hello", "who are you?"))
    assert played.hear() == [Hello(2, TOKEN, "test", 244, 32768)]
    played.say(Failed(0, "hello", "who are you?"))  # the same one, which was late
    assert played.take() == []


def test_a_full_house_is_left_alone_for_a_while() -> None:
    played = Played(Device(nonce=itertools.count(1).__next__))
    played.plug()
    played.hear()
    played.say(Failed(0, "hello", "too many", 5000, 3))
    assert played.take() == [Refused(0, "busy", "too many", 5000, 3)]
    played.wait(4.9)
    assert played.hear() == []
    played.wait(0.2)
    assert played.hear()


def test_a_host_without_room() -> None:
    played = Played(Device(nonce=itertools.count(1).__next__))
    played.plug()
    played.device.ask("x" * 1000)
    hello = played.said[-1]
    assert isinstance(hello, Hello)
    played.host.reset(hello.mtu, hello.room)
    played.say(Welcome(hello.nonce, TOKEN, "small", 36, 0, False))
    _, refused = played.take()
    assert isinstance(refused, Refused)
    assert refused.code == "bad"
    assert "room" in refused.text


@pytest.mark.parametrize("secret", [None, b"right" * 4, b"wrong" * 4])
def test_secrets(secret: bytes | None) -> None:
    service = Scripted(answer=lambda text: text)
    device = Device(secret=secret, baud=BAUD)
    pair = Pair(service, secret=b"right" * 4, device=device)
    if secret == b"right" * 4:
        assert pair.ask("hello") == "hello"
    else:
        refused = pair.until(Refused)
        assert isinstance(refused, Refused)
        assert refused.code == "auth"


def test_a_challenge_for_another_hello_is_ignored() -> None:
    played = Played(Device(secret=b"s" * 16, nonce=itertools.count(1).__next__))
    played.plug()
    played.hear()
    played.say(Challenge(77, bytes(16)))
    assert played.hear() == []


class Pair:
    """A device, and a service at the other end of its line."""

    def __init__(
        self,
        service: Scripted,
        conditions: Conditions = CLEAN,
        *,
        secret: bytes | None = None,
        device: Device | None = None,
        blind: bool = False,
    ) -> None:
        self.line = Line(conditions, seed=1)
        self.device = device or Device("test", baud=BAUD, nonce=itertools.count(1).__next__)
        self.end = DeviceEnd(self.device, self.line, blind)
        self.host = HostEnd(service, self.line, conditions.baud, secret)
        self.now = 0.0

    def until(self, kind: type[Event]) -> Event:
        """Let both talk until the device has such an event."""
        seen: list[Event] = []

        def heard(end: int, event: Event, now: float) -> None:
            if end == 1 and isinstance(event, kind):
                seen.append(event)

        self.now = talk(self.line, (self.host, self.end), heard, lambda _: bool(seen), self.now)
        return seen[0]

    def ask(self, text: str) -> str:
        """The whole answer."""
        self.end.pieces.clear()
        number = self.device.ask(text)
        answered = self.until(Answered)
        assert isinstance(answered, Answered)
        assert (answered.number, answered.reason) == (number, "stop")
        return "".join(self.end.pieces)


@pytest.mark.parametrize(
    ("conditions", "blind", "least"),
    [
        (CLEAN, False, 0.85 * BAUD / 10),
        (BAD, False, 600),
        (UNPLUGGED, False, 600),
        (UNPLUGGED, True, 600),
    ],
    ids=["clean", "bad", "unplugged", "unplugged from a device that can't notice"],
)
def test_answers_over_a_line(conditions: Conditions, blind: bool, least: float) -> None:
    service = Scripted(answer=lambda text: letters(int(text), random.Random(text).randint(1, 4096)))
    pair = Pair(service, conditions, blind=blind)
    answers = ANSWERS if conditions is UNPLUGGED and not blind else ANSWERS // 4
    carried = 0
    for number in range(answers):
        answer = pair.ask(str(number))
        assert answer == service.answer(str(number))
        carried += len(answer.encode())
    (session,) = service.sessions.values()
    assert service.generated == len(session.questions) == answers
    print(f"{carried / pair.now:.0f} B/s")
    assert carried / pair.now >= least


@pytest.mark.parametrize(("blind", "most"), [(False, 0.1), (True, 1.5)])
def test_an_answer_goes_on_soon_after_the_line_is_back(blind: bool, most: float) -> None:
    service = Scripted(answer=lambda text: "x" * 5000)
    pair = Pair(service, blind=blind)
    pair.line.pull(0.1, 0.7)
    pair.device.ask("go")
    pieces: list[float] = []

    def heard(end: int, event: Event, now: float) -> None:
        if end == 1 and isinstance(event, Piece):
            pieces.append(now)

    talk(pair.line, (pair.host, pair.end), heard, lambda _: not pair.device.asking)
    assert service.generated == 1
    back = min(when for when in pieces if when > 0.7)
    assert back - 0.7 < most


def test_results_that_cannot_be_sent_are_errors(played: Played) -> None:
    played.say(Call(1, "fan", {}, 1000))
    played.device.result(1, True, 10**30)
    played.carry()
    [result] = played.hear()
    assert isinstance(result, Result)
    assert result.status == "error"
    assert "64 bits" in str(result.value)


def test_answers_go_on_within_a_second_on_a_bad_line() -> None:
    service = Scripted(answer=lambda text: "x" * 20_000)
    pair = Pair(service, BAD)
    chance = random.Random(3)
    backs: list[float] = []
    waits: list[float] = []

    def heard(end: int, event: Event, now: float) -> None:
        if end == 1 and isinstance(event, Piece) and backs and now >= backs[-1]:
            waits.append(now - backs.pop())

    def done(now: float) -> bool:
        if not pair.device.asking and not pair.line.unplugged(now):
            pair.device.ask("go")
        if not backs and len(waits) < UNPLUGGINGS:
            begin = now + chance.uniform(0.5, 1.0)
            backs.append(begin + chance.uniform(0.1, 1.0))
            pair.line.pull(begin, backs[-1])
        return not backs

    talk(pair.line, (pair.host, pair.end), heard, done, limit=10.0 * UNPLUGGINGS)
    waits.sort()
    print(f"median {waits[len(waits) // 2]:.3f} s, longest {waits[-1]:.3f} s")
    assert waits[-1] < 1


def test_calls_over_a_line() -> None:
    fan = {"name": "fan", "arguments": {"percent": 40, "why": "x" * 300}}
    service = Scripted(answer=lambda text: text * 100, call=lambda text: fan)
    device = Device(tools=[FAN], baud=BAUD, nonce=itertools.count(1).__next__)
    pair = Pair(service, UNPLUGGED, device=device)
    for number in range(50):
        assert pair.ask(str(number)) == str(number) * 100
    called = [event.number for event in pair.end.events if isinstance(event, Called)]
    assert called == list(range(1, 51))
    (session,) = service.sessions.values()
    assert session.results == {number: ("ok", fan["arguments"]) for number in called}


def test_hostile_hosts() -> None:
    some = random.Random(5)
    device = Device("test", secret=b"s" * 16, nonce=lambda: 1)
    device.connected(0.0)
    now, heard = 0.0, set()
    for _ in range(FRAMES):
        now += some.choice((0.0, 0.001, 0.1, 3.0))
        seq = some.choice((device.link._expected,) * 9 + (some.randrange(256),))
        for event in device.receive(hostile_host.frame(some, seq, device.number), now):
            heard.add(type(event))
            if isinstance(event, Called):
                device.result(event.number, True, event.arguments)
        if not device.asking:
            device.ask("what?")
        assert len(device.output(now)) < 20_000
        assert device.link.waiting <= 64 * 1024
    assert heard >= set(get_args(Event)) - {Answered}
