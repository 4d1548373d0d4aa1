"""boards/clients/edgellm.py in MicroPython itself, against the host's end of the link.

The client talks over a line in virtual time: its script asks for bytes by `exchange`, which lets
some milliseconds pass on the line. The same scripts run in this Python, too.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_host
import micropython
import pytest
from line_simulator import BAD, CLEAN, UNPLUGGED, Conditions, Line
from virtual_link import HostEnd, Scripted, letters

from edgellm.link import frames
from edgellm.link.messages import Accept, Call, Chunk, Failed, Finished, Note, Welcome, pack
from edgellm.tools.tool import Tool

WHERE = micropython.folder()  # before tests are given folders of their own
ANSWERS = 200 if os.environ.get("EDGELLM_SOAK") else 10
FRAMES = 200_000 if os.environ.get("EDGELLM_SOAK") else 4_000
STEP = 0.002
"""Seconds that pass when the client sleeps."""

IMPORTS = """
import sys
sys.path.append("/clients")
import edgellm
from test import exchange
"""

LINE = """
class Line:
    out = got = b""
    clock = 0

    def write(self, data):
        self.out += bytes(data)

    def read(self, n):
        data, self.got = self.got[:n], self.got[n:]
        return data

    def sleep_ms(self, ms):
        self.clock += 2
        self.got += bytes.fromhex(exchange(self.out.hex() or ""))
        self.out = b""

line = Line()
edgellm.ticks_ms = lambda: line.clock
edgellm.sleep_ms = line.sleep_ms
"""

Run = Callable[[str, Callable[[bytes], bytes]], list[str]]


@pytest.fixture(params=["MicroPython", "CPython"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a script; returns the lines that it printed."""
    if request.param == "CPython":
        return in_this_python
    if trouble := micropython.missing(WHERE):
        pytest.skip(trouble)
    return in_micropython


def in_micropython(script: str, exchange: Callable[[bytes], bytes]) -> list[str]:
    return micropython.run(WHERE, IMPORTS + LINE + script, exchange, timeout=120)


def in_this_python(script: str, exchange: Callable[[bytes], bytes]) -> list[str]:
    printed: list[str] = []
    names = {
        "edgellm": load(micropython.CLIENTS / "edgellm.py"),
        "exchange": lambda data: exchange(bytes.fromhex(data)).hex(),
        "print": lambda *values: printed.append(" ".join(map(str, values))),
    }
    exec(LINE + script, names)
    return printed


def load(path: Path) -> Any:
    """The file as a module; its name is the package's, too."""
    spec = importlib.util.spec_from_file_location("client", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Conversation:
    """A line with the host at its other end."""

    def __init__(self, service: Scripted, conditions: Conditions = CLEAN, seed: int = 1) -> None:
        self.line = Line(conditions, seed)
        self.host = HostEnd(service, self.line, conditions.baud)
        self.now = 0.0

    def exchange(self, data: bytes) -> bytes:
        here, there = self.line.sides
        there.write(data, self.now)
        end = self.now + STEP
        while True:
            self.host.receive(here.read(self.now), self.now)
            here.write(self.host.output(self.now), self.now)
            deadline = self.host.deadline()
            following = min(here.arrival(), end if deadline is None else deadline)
            if following >= end:
                self.now = end
                return there.read(end)
            self.now = max(self.now, following)


@pytest.mark.parametrize(
    ("conditions", "least"),
    [(CLEAN, 8000), (BAD, 600), (UNPLUGGED, 300)],
    ids=["clean", "bad", "unplugged"],
)
def test_answers_arrive_whole_and_once(run: Run, conditions: Conditions, least: float) -> None:
    answers = [letters(n, 1 + n * 997 % 4096) for n in range(ANSWERS)]
    service = Scripted(lambda text: answers[int(text)])
    conversation = Conversation(service, conditions)
    printed = run(
        f"""
link = edgellm.Link(line, "test")
for n in range({ANSWERS}):
    print(link.ask(str(n)).encode().hex(), link.reason)
""",
        conversation.exchange,
    )
    assert printed == [f"{text.encode().hex()} stop" for text in answers]
    assert service.generated == ANSWERS
    # Nobody tells this client that the line is back: it finds out.
    assert len("".join(answers).encode()) / conversation.now > least


def test_tools(run: Run) -> None:
    wanted = {
        "a": {"name": "fan", "arguments": {"percent": 40}},
        "b": {"name": "fan", "arguments": {"percent": -1}},
        "c": {"name": "lamp", "arguments": {}},
        "d": {"name": "read", "arguments": {}},
    }
    service = Scripted(lambda text: "done", call=wanted.get)
    printed = run(
        """
def fan(percent):
    if percent < 0:
        raise ValueError("that's no speed")
    print("fan", percent)
    return {"percent": percent, "rpm": 1200.5}

def read():
    return "x" * 5000

link = edgellm.Link(line)
link.tool(fan, "Blows.", {"percent": {"type": "integer", "maximum": 100}}, 1)
link.tool(read, "Reads.")
for text in "abcd":
    print(link.ask(text))
""",
        Conversation(service).exchange,
    )
    assert printed == ["fan 40", *["done"] * 4]
    (session,) = service.sessions.values()
    fan, read = sorted(session.tools)
    assert read == ["read", "Reads.", {"type": "object", "properties": {}, "required": []}, 0]
    assert fan[:2] + fan[3:] == ["fan", "Blows.", 1]
    assert fan[2] == {
        "type": "object",
        "properties": {"percent": {"type": "integer", "maximum": 100}},
        "required": ["percent"],
    }
    assert session.results == {
        1: ("ok", {"percent": 40, "rpm": 1200.5}),
        2: ("error", "ValueError: that's no speed"),
        3: ("error", "ValueError: there is no tool lamp"),
        4: ("error", "ValueError: the result is too long"),
    }


def test_a_repeated_call_is_answered_from_memory(run: Run) -> None:
    service = Scripted(lambda text: "done", call=lambda text: {"name": "once", "arguments": {}})
    conversation = Conversation(service)

    def exchange(data: bytes) -> bytes:
        link = conversation.host.host.link
        if service.sessions and not conversation.host.deaf:
            (session,) = service.sessions.values()
            if len(session.results) == 1 and 1 in session.questions:
                link.send(Call(1, "once", {}, 1000))
        return conversation.exchange(data)

    printed = run(
        """
def once():
    print("once")
    return 5

link = edgellm.Link(line)
link.tool(once, "Once.")
print(link.ask("x"))
for _ in range(100):
    link.poll()
    edgellm.sleep_ms(1)
""",
        exchange,
    )
    assert printed == ["once", "done"]


def test_refusals(run: Run) -> None:
    conversation = Conversation(Scripted(lambda text: "never"))
    refusals = [
        Failed(1, "busy", "busy: 3 wait", 700, 3),
        Failed(0, "tools", "no such type"),
        Note("history isn't being saved"),
        Failed(3, "toolong", "too long"),
    ]

    def handle(message: object) -> None:
        if type(message).__name__ != "Ask":
            original(message)
            return
        link = conversation.host.host.link
        link.send(refusals.pop(0))
        if isinstance(refusals[0] if refusals else None, Failed) and len(refusals) == 1:
            link.send(refusals.pop(0))

    original = conversation.host._handle
    conversation.host._handle = handle  # type: ignore[method-assign]
    printed = run(
        """
link = edgellm.Link(line)
for n in range(3):
    try:
        link.ask("x")
    except edgellm.LinkError as error:
        print(error, error.code, error.retry_ms, error.place)
print(link.note)
""",
        conversation.exchange,
    )
    assert printed == [
        "busy: busy: 3 wait busy 700 3",
        "tools: no such type tools 0 0",
        "toolong: too long toolong 0 0",
        "history isn't being saved",
    ]


def test_a_full_service_is_left_alone_for_a_while(run: Run) -> None:
    hellos: list[float] = []
    now = 0.0

    def exchange(data: bytes) -> bytes:
        nonlocal now
        now += STEP
        if not data:
            return b""
        hellos.append(now)
        kind, refusal = pack(Failed(0, "hello", "full", 300, 2))
        return frames.encode(bytes((kind, 0, 0, 8)) + refusal)

    printed = run(
        """
link = edgellm.Link(line)
for _ in range(2):
    try:
        link.ask("x")
    except edgellm.LinkError as error:
        print(error.code, error.retry_ms, error.place)
""",
        exchange,
    )
    assert printed == ["busy 300 2"] * 2
    first, second = hellos
    assert second - first >= 0.3


def test_an_answer_that_changed_is_damaged(run: Run) -> None:
    conversation = Conversation(Scripted(lambda text: "good" if len(text) == 1 else "other"))
    original = conversation.host._pump

    def pump() -> None:
        link = conversation.host.host.link
        if conversation.host._number == 1:
            link.send(Chunk(0, "begun"))
            link.send(Finished(1, 5, "stop", 1, 1, 0))
            conversation.host._number = 0
        original()

    conversation.host._pump = pump  # type: ignore[method-assign]
    printed = run(
        """
link = edgellm.Link(line)
try:
    link.ask("x")
except edgellm.LinkError as error:
    print(error)
print(link.ask("y"))
""",
        conversation.exchange,
    )
    assert printed == ["damaged: the answer isn't the one that was begun", "good"]


def test_a_restarted_device_goes_on_with_its_session(run: Run) -> None:
    service = Scripted(lambda text: text * 2)
    printed = run(
        """
link = edgellm.Link(line)
print(link.ask("a"))
again = edgellm.Link(line, token=link.token, number=link.number)
again.new()
print(again.ask("b"), again.number)
other = edgellm.Link(line, token=b"12345678", number=2)
print(other.ask("c"), other.number)
""",
        Conversation(service).exchange,
    )
    assert printed == ["aa", "bb 2", "cc 3"]
    assert [sorted(session.questions) for session in service.sessions.values()] == [[1, 2], [3]]
    assert [session.forgotten for session in service.sessions.values()] == [1, 0]
    assert service.sessions[bytes(8)].taken == [1, 2]


def test_stopping_and_asking_without_waiting(run: Run) -> None:
    printed = run(
        """
link = edgellm.Link(line)
pieces = []
link.start("x", pieces.append)
try:
    link.start("y", pieces.append)
except edgellm.LinkError as error:
    print(error.code)
while not pieces:
    link.poll()
    edgellm.sleep_ms(1)
link.stop()
while link.poll():
    edgellm.sleep_ms(1)
print(0 < len("".join(pieces)) < 20000)
""",
        Conversation(Scripted(lambda text: "x" * 20000)).exchange,
    )
    assert printed == ["busy", "True"]


def test_messages_and_frames_are_read_as_they_are_written(run: Run) -> None:
    bodies = [b"", b"\0", b"a" * 253, b"b" * 254, b"c" * 255, b"\0" * 300, b"d" * 600 + b"\0"]
    replies = iter([frames.encode(body) for body in bodies])
    seen: list[bytes] = []

    def exchange(data: bytes) -> bytes:
        seen.append(data)
        return next(replies)

    printed = run(
        f"""
for n in range({len(bodies)}):
    frame = bytes.fromhex(exchange(edgellm._packed(VALUES).hex()))
    body = edgellm._unstuffed(frame[1:-1])[:-4]
    print(bytes(edgellm._stuffed(bytes(body))) == frame or n, bytes(body).hex() or "")
print(edgellm._unpacked(edgellm._packed(VALUES)) == VALUES)
for damaged in DAMAGED:
    print(edgellm._unpacked(bytes.fromhex(damaged)))
""".replace("VALUES", repr(VALUES)).replace("DAMAGED", repr(DAMAGED)),
        exchange,
    )
    decoder = frames.Decoder(1028)
    assert [line.partition(" ")[2] for line in printed[: len(bodies)]] == [
        body.hex() for body in bodies
    ]
    assert decoder.errors == 0
    assert printed[len(bodies) :] == ["True", *["None"] * len(DAMAGED)]


VALUES: list[Any] = [
    *(None, True, False, 0, 127, 128, 65536, 2**32, -1, -32, -33, -(2**40), 1.5),
    *("", "ä" * 20, "x" * 300, b"", b"\0" * 300, {}, {"a": [1, {"b": None}]}, list(range(20))),
]
DAMAGED = ["", "91", "9101ff", "01", "c1", "dd7fffffff", "91a5616263", "91a1ff", "91" * 40, "81c0"]


def test_the_greenhouse() -> None:
    if trouble := micropython.missing(WHERE):
        pytest.skip(trouble)
    calls = {
        "read_thermometer": {},
        "set_fan": {"percent": 40},
        "run_pump": {"seconds": 2},
    }
    wanted = iter([{"name": name, "arguments": calls[name]} for name in calls])
    service = Scripted(lambda text: "All is well.\n", call=lambda text: asked[-1])
    asked = [next(wanted)]

    def exchange(data: bytes) -> bytes:
        for session in service.sessions.values():
            if len(session.taken) == len(asked) < len(calls):
                asked.append(next(wanted))
        return conversation.exchange(data)

    conversation = Conversation(service)
    printed = in_micropython(BOARD, exchange)
    assert printed[0] == "pwm 25000"
    assert printed[1:] == [
        *("All is well.", "", "600"),
        *("duty 26214", "All is well.", "", "600"),
        *("on", "off", "All is well.", "", "600"),
    ]
    (session,) = service.sessions.values()
    assert session.results == {
        1: ("ok", {"celsius": 27.2}),
        2: ("ok", {"percent": 40}),
        3: ("ok", {"litres": 0.1}),
    }
    assert session.forgotten == 3
    for name, description, parameters, danger in session.tools:
        tool = Tool.check([name, description, parameters, danger])
        assert tool.schema.mismatch(calls[name]) is None


BOARD = """
class machine:
    class Pin:
        OUT = 1
        def __init__(self, *arguments, value=None):
            pass
        def on(self):
            print("on")
        def off(self):
            print("off")

    class PWM:
        def __init__(self, pin, freq, duty_u16):
            print("pwm", freq)
        def duty_u16(self, duty):
            print("duty", duty)

    class ADC:
        def __init__(self, pin):
            pass
        def read_u16(self):
            return 14015

    @staticmethod
    def UART(*arguments, **options):
        return line

sys.modules["machine"] = machine
import greenhouse
greenhouse.time.sleep = lambda seconds: None
link = greenhouse.connect()
for _ in range(3):
    print(greenhouse.look_after(link))
"""


def test_memory() -> None:
    """Of the module as source and of a Link, on a board with words of 32 bits."""
    if trouble := micropython.missing(WHERE):
        pytest.skip(trouble)
    script = """
import gc, sys

def used():
    gc.collect()
    return gc.mem_alloc()

sys.path.append("/clients")
before = used()
import edgellm
loaded = used()
link = edgellm.Link(None)
print(loaded - before, used() - loaded)
"""
    (printed,) = micropython.run(WHERE, script, lambda data: b"", timeout=60)
    module, link = map(int, printed.split())
    print(f"edgellm.py: {module} B as source, {link} B a Link")
    assert module <= 28 * 1024
    assert link <= 2 * 1024


def test_hostile_hosts(run: Run) -> None:
    some = random.Random(5)

    def exchange(data: bytes) -> bytes:
        # Each batch begins anew: the last one has left the client anywhere.
        begun = (Welcome(1, bytes(8), "", 244, 0, True), Accept(1, 0))
        messages = map(pack, begun)
        frame = b"".join(frames.encode(bytes((kind, 0, 0, 8)) + body) for kind, body in messages)
        return frame + b"".join(hostile_host.frame(some, seq, 1) for seq in range(1, 20))

    printed = run(
        f"""
def fan(percent):
    return percent

kinds = set()
for n in range({FRAMES // 20}):
    link = edgellm.Link(line, token=b"12345678")
    link._nonce = 1
    link.tool(fan, "Blows.", {{"percent": {{"type": "integer"}}}})
    try:
        link.start("what?", lambda piece: kinds.add("piece"))
        for _ in range(5):
            link.poll()
            line.sleep_ms(1)
    except edgellm.LinkError as error:
        kinds.add(error.code)
    line.got = b""
print(*sorted(kinds))
""",
        exchange,
    )
    (kinds,) = printed
    assert {"auth", "bad", "busy", "damaged", "piece", "tools", "unknown"} <= set(kinds.split())


def test_it_imports_nothing_but_what_boards_have() -> None:
    tree = ast.parse((micropython.CLIENTS / "edgellm.py").read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    assert names == {"struct", "binascii", "time", "os"}
