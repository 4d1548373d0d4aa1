from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.errors import BusyError, UsageError
from edgellm.link.lines import (
    COMMANDS,
    MAX_MESSAGE,
    MAX_WAITING,
    Command,
    Lines,
    Question,
    Rejected,
    explain,
    parse,
)

LIMIT = 64
LONG = Rejected(f"line longer than {LIMIT} bytes")

CASES = {
    "LF": (b"hello\n", [Question("hello")]),
    "CR": (b"hello\r", [Question("hello")]),
    "CRLF": (b"hello\r\nyou\r\n", [Question("hello"), Question("you")]),
    "blank": (b"\n\r\n  \n\t\n", []),
    "spaces are kept": (b"  hello  \n", [Question("  hello  ")]),
    "UTF-8": ("grüß dich 🙂\n".encode(), [Question("grüß dich 🙂")]),
    "tab": (b"a\tb\n", [Question("a\tb")]),
    "backspace": (b"hellp\x08o\n", [Question("hello")]),
    "delete": ("hé\x7f\x7f\x7fya\n".encode(), [Question("ya")]),
    "XON, XOFF, escape": (b"\x11he\x13l\x1blo\n", [Question("hello")]),
    "command": (b"/stop\r\n", [Command("stop", "")]),
    "command with spaces": (b"/dot  on \n", [Command("dot", "on")]),
    "rate": (b"/rate 30\n", [Command("rate", "30")]),
    "two lines": (b"/new\nhi\n", [Command("new", ""), Question("hi")]),
    "unknown command": (
        b"/home\n",
        [Rejected("unknown command /home; /help lists the commands")],
    ),
    "bare slash": (b"/\n", [Rejected("unknown command /; /help lists the commands")]),
    "escaped slash": (b" /home\n", [Question(" /home")]),
    "missing argument": (b"/dot\n", [Rejected("usage: /dot on|off")]),
    "wrong argument": (b"/rate fast\n", [Rejected("usage: /rate N")]),
    "superfluous argument": (b"/stop now\n", [Rejected("usage: /stop")]),
    "not UTF-8": (b"ab\xffc\nhi\n", [Rejected("byte 2 of the line is not UTF-8"), Question("hi")]),
    "cut character": (b"ab\xc3\n", [Rejected("byte 2 of the line is not UTF-8")]),
    "longest": (b"x" * LIMIT + b"\n", [Question("x" * LIMIT)]),
    "too long": (b"x" * (LIMIT + 1) + b"\nhi\n", [LONG, Question("hi")]),
    "far too long": (b"x" * 1000 + b"\nhi\n", [LONG, Question("hi")]),
    "zero": (b"\0hi\nh\0o\n", [Question("hi"), Question("ho")]),
    "authentication": (b"/auth s3cr-et\n", [Command("auth", "s3cr-et")]),
}


@pytest.mark.parametrize(("data", "events"), CASES.values(), ids=CASES.keys())
def test_receive(data: bytes, events: list[object]) -> None:
    assert Lines(LIMIT).receive(data) == events

    lines = Lines(LIMIT)
    assert [event for byte in data for event in lines.receive(bytes([byte]))] == events
    assert lines.receive_end() == []

    assert Lines(LIMIT).receive(data + b"trailing") == events


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_blank_lines_may_be_questions(end: bytes) -> None:
    data = end + b"hi" + end + end
    lines = Lines(blank=True)
    events = [event for byte in data for event in lines.receive(bytes([byte]))]
    assert events == Lines(blank=True).receive(data)
    assert events == [Question(""), Question("hi"), Question("")]
    assert lines.receive_end() == []
    assert Lines().receive(data) == [Question("hi")]


def test_receive_waits_for_the_line_ending() -> None:
    lines = Lines()
    assert lines.receive(b"hel") == []
    assert lines.receive(b"lo") == []
    assert lines.receive(b"\n") == [Question("hello")]


def test_what_is_left_at_the_end_is_a_line() -> None:
    lines = Lines()
    assert lines.receive(b"one\ntwo") == [Question("one")]
    assert lines.receive_end() == [Question("two")]
    assert lines.receive_end() == []


@given(st.lists(st.binary(max_size=40)), st.integers(1, 30))
def test_any_bytes_are_events(chunks: list[bytes], limit: int) -> None:
    whole, cut = Lines(limit), Lines(limit)
    data = b"".join(chunks)
    events = [event for chunk in chunks for event in cut.receive(chunk)] + cut.receive_end()
    assert events == whole.receive(data) + whole.receive_end()
    assert len(events) <= data.count(b"\n") + data.count(b"\r") + 1
    for event in events:
        match event:
            case Question(text):
                assert text.strip()
                assert len(text.encode()) <= limit
                assert not set(text) & set("\0\r\n\b\x7f\x1b")
            case Command(name):
                assert name in COMMANDS
            case Rejected(reason):
                assert reason
    assert cut.receive(b"x\n") == [Question("x")]  # back in step


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1))
def test_every_printable_line_arrives_as_it_is(text: str) -> None:
    if text.strip() and not text.startswith("/"):
        assert parse(text) == Question(text)


@pytest.mark.parametrize("begun", [b"hel", b"hel\xc3", b"x" * (LIMIT + 1), b"hi\r"])
def test_a_line_that_has_begun_can_be_dropped(begun: bytes) -> None:
    lines = Lines(LIMIT, blank=True)
    lines.receive(begun)
    lines.drop()
    assert lines.receive(b"\nlo\n") == [Question(""), Question("lo")]


def answer(lines: Lines, *pieces: str) -> bytes:
    lines.begin()
    return b"".join(map(lines.text, pieces)) + lines.end()


@pytest.mark.parametrize(
    "pieces",
    [(), ("hello",), ("hel", "lo ", "wörld"), ("a\nb\n", "\nc\n"), (".", "\n.", ".\n"), ("# x",)],
)
def test_an_answer_is_its_text_and_a_newline(pieces: tuple[str, ...]) -> None:
    assert answer(Lines(), *pieces) == "".join(pieces).encode() + b"\n"


@given(st.lists(st.text(st.sampled_from(".\nab"), max_size=5)))
def test_dot_lines_are_undone_by_dropping_one_dot(pieces: list[str]) -> None:
    lines = Lines()
    lines.dot = True
    *got, last, end = answer(lines, *pieces).decode().split("\n")
    assert (last, end) == (".", "")
    assert "." not in got
    assert "\n".join(line.removeprefix(".") for line in got) == "".join(pieces)


def test_dot_holds_from_the_next_answer_on() -> None:
    lines = Lines()
    lines.begin()
    lines.dot = True
    assert lines.text(".a") + lines.end() == b".a\n"
    assert answer(lines, "b") == b"b\n.\n"
    lines.dot = False
    assert answer(lines, ".") == b".\n"


def test_zero_characters_and_lone_surrogates_are_never_sent() -> None:
    assert answer(Lines(), "a\0b", "\0", "\ud800") == b"ab?\n"
    assert Lines().status("a\0b") == b"# a b\n"


def test_status_and_error_lines() -> None:
    lines = Lines()
    assert lines.status("model x") == b"# model x\n"
    assert lines.error(BusyError(3, 2000)) == b"! busy 3 2000\n"
    assert lines.error(UsageError("two\r\nlines")) == b"! two lines\n"
    assert len(lines.error("x" * 1000)) == MAX_MESSAGE + 3


def test_they_wait_for_the_end_of_the_answers_line() -> None:
    lines = Lines()
    lines.begin()
    sent = lines.status("at once") + lines.text("one ") + lines.status("a") + lines.error("b")
    sent += lines.text("line\nand") + lines.status("c") + lines.text(" on\n") + lines.status("d")
    sent += lines.text("more") + lines.error("e") + lines.end() + lines.status("f")
    assert sent.decode().splitlines() == [
        "# at once", "one line", "# a", "! b", "and on", "# c", "# d", "more", "! e", "# f",
    ]  # fmt: skip


@given(st.lists(st.text(st.sampled_from("#!\n.x"), min_size=1, max_size=4)), st.data())
def test_they_leave_the_answer_whole(pieces: list[str], data: st.DataObject) -> None:
    lines = Lines()
    lines.begin()
    sent = b""
    for piece in pieces:
        sent += lines.text(piece)
        for _ in range(data.draw(st.integers(0, 2))):
            sent += lines.status("STATUS")
    sent += lines.end()
    kept = [line for line in sent.decode().split("\n") if line != "# STATUS"]
    assert "\n".join(kept) == "".join(pieces) + "\n"


def test_what_waits_is_bounded() -> None:
    lines = Lines()
    lines.begin()
    sent = lines.text("x") + b"".join(lines.status("s") for _ in range(1000)) + lines.end()
    assert sent == b"x\n" + b"# s\n" * MAX_WAITING


def test_a_failed_answer() -> None:
    lines = Lines()
    lines.dot = True
    lines.begin()
    assert lines.fail("no luck") == b"! no luck\n"
    lines.begin()
    sent = lines.text("so far") + lines.status("s") + lines.fail(BusyError(1, 2))
    assert sent == b"so far\n! busy 1 2\n# s\n"
    assert answer(lines, "fine") == b"fine\n.\n"


def test_help_names_every_command_on_one_line() -> None:
    lines = explain()
    assert [line.split()[0] for line in lines] == [f"/{name}" for name in COMMANDS]
    for line in lines:
        assert Lines().status(line).decode() == f"# {line}\n"
