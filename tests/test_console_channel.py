from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgellm.errors import UsageError
from edgellm_plugins.console_channel import ConsoleChannel, edgellm_channel

CHAT = """
import asyncio, os, sys
if os.isatty(0):
    os.close(os.open(os.ttyname(0), os.O_RDWR))  # makes it the controlling terminal: Ctrl-C works
from scripted import HOLD, ScriptedService
from edgellm.errors import BusyError, ContextError, EdgeError
from edgellm_plugins.console_channel import ConsoleChannel

def script(text):
    if text == "busy":
        raise BusyError(3, 2000)
    if text == "hold":
        return ["so far", HOLD]
    if text == "hot":
        return ["so far", service.notices.tell("it is hot") or "and on"]
    if text == "fail":
        return ["so far", ContextError("too long")]
    if text == "bug":
        raise ZeroDivisionError("secret")
    if text == "hostile":
        return ["a\\x1b]0;title\\x07b\\x9bc"]
    return [text.upper()]

async def main():
    global service
    ended = asyncio.Event()
    service = ScriptedService(script)
    task = asyncio.create_task(ConsoleChannel().serve(service))
    asyncio.get_running_loop().add_signal_handler(15, lambda: ended.set() or task.cancel())
    if "SERVES_ON" in os.environ:
        asyncio.get_running_loop().add_signal_handler(2, ended.set)
    try:
        await task
    except asyncio.CancelledError:
        print("cancelled", file=sys.stderr)
    except EdgeError as error:
        print("closed", service.closed, file=sys.stderr)
        sys.exit(f"raised: {error}")
    if "SERVES_ON" in os.environ:
        print("console left", file=sys.stderr)
        await ended.wait()
    print("closed", service.closed, file=sys.stderr)

asyncio.run(main())
"""
CLOSED = "closed ['console:']"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parent),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "INPUTRC": "/dev/null",
        "TERM": "dumb",
        "LC_ALL": "C.UTF-8",
    }


def piped(text: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHAT],
        input=text,
        capture_output=True,
        env=environment,
        timeout=20,
        check=False,
        encoding="utf-8",
    )


class Chat:
    """A chat on a terminal of its own; standard output may go elsewhere."""

    def __init__(self, environment: dict[str, str], stdout: int | None = None) -> None:
        self.master, self.slave = pty.openpty()
        self.seen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHAT],
            stdin=self.slave,
            stdout=self.slave if stdout is None else stdout,
            stderr=self.slave,
            env=environment,
            start_new_session=True,
        )

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, end: str) -> str:
        """All that was shown since the last call, up to and with `end`."""
        deadline = time.monotonic() + 10
        while end not in self.seen:
            left = deadline - time.monotonic()
            if left < 0 or not select.select([self.master], [], [], left)[0]:
                pytest.fail(f"{end!r} is not in {self.seen!r}")
            self.seen += os.read(self.master, 4096).decode()
        shown, _, self.seen = self.seen.partition(end)
        return shown + end

    def leave(self) -> str:
        """What is shown at the end; the process must end by itself, with status 0."""
        shown = self.until(CLOSED)
        assert self.process.wait(10) == 0
        return shown

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def chat(environment: dict[str, str]) -> Iterator[Chat]:
    chat = Chat(environment)
    chat.until("> ")
    yield chat
    chat.close()


def test_schemes() -> None:
    assert isinstance(edgellm_channel("console:"), ConsoleChannel)
    assert edgellm_channel("tcp://127.0.0.1:7070") is None
    with pytest.raises(UsageError, match="say console:"):
        edgellm_channel("console:?x=1")


def test_piped_lines_are_questions_and_the_answers_stand_alone(
    environment: dict[str, str],
) -> None:
    done = piped("one\n\r\nzwölf\r\nbusy\nfail\n/status\n/nonsense\nthree", environment)
    assert done.stdout == "ONE\nZWÖLF\nso far\nTHREE\n"
    assert done.stderr.splitlines() == [
        "! busy: 3 requests are waiting; ask again in 2000 ms",
        "! too long",
        "# model: scripted",
        "# sessions: 1",
        "! unknown command /nonsense; /help lists the commands",
        CLOSED,
        "raised: busy: 3 requests are waiting; ask again in 2000 ms",
    ]


def test_piped_lines_that_are_all_answered_are_no_error(environment: dict[str, str]) -> None:
    done = piped("one\n/nonsense\n/new\ntwo\n", environment)
    assert (done.stdout, done.returncode) == ("ONE\nTWO\n", 0)


def test_piped_exit_raises_what_failed_before(environment: dict[str, str]) -> None:
    done = piped("fail\n/exit\n", environment)
    assert done.stderr.splitlines() == ["! too long", CLOSED, "raised: too long"]


def test_a_notice_stands_behind_the_answer(environment: dict[str, str]) -> None:
    done = piped("hot\none\n", environment)
    assert done.stdout == "so farand on\nONE\n"
    assert done.stderr == f"# it is hot\n{CLOSED}\n"


def test_nothing_piped(environment: dict[str, str]) -> None:
    done = piped("", environment)
    assert (done.stdout, done.stderr, done.returncode) == ("", CLOSED + "\n", 0)


def test_piped_exit_and_bytes_for_others(environment: dict[str, str]) -> None:
    done = piped("hostile\n/exit\nnever\n", environment)
    assert done.stdout == "a\x1b]0;title\x07b\x9bc\n"  # another program's business
    assert done.returncode == 0


def test_a_bug_is_logged_and_the_chat_goes_on(environment: dict[str, str]) -> None:
    done = piped("bug\nmore\n", environment)
    assert done.stdout == "MORE\n"
    assert "! internal error" in done.stderr
    assert "ZeroDivisionError: secret" in done.stderr
    assert done.stderr.endswith("raised: internal error\n")


def test_at_a_terminal_a_failed_question_is_only_told(chat: Chat) -> None:
    chat.type("fail\n")
    chat.until("! too long")
    chat.until("> ")
    chat.type("/exit\n")
    chat.leave()


def test_chat(chat: Chat) -> None:
    chat.type("hello\n")
    assert chat.until("> ") == "hello\r\nHELLO\r\n> "
    chat.type("/new\n")
    assert "# new conversation" in chat.until("> ")
    chat.type("/stop\n")
    assert "# nothing to stop" in chat.until("> ")
    chat.type("/help\n")
    assert "/exit" in chat.until("> ")
    chat.type("/exit\n")
    chat.leave()


def test_end_of_input_leaves(chat: Chat) -> None:
    chat.type("\x04")
    chat.leave()


def test_lines_can_be_edited(chat: Chat) -> None:
    chat.type("hexlo\x02\x02\x02\x04l\x05!\n")
    chat.until("HELLO!")
    chat.until("> ")
    chat.type("\x10\n")  # the line before
    chat.until("HELLO!")


def test_interrupt_stops_the_answer(chat: Chat) -> None:
    for _ in range(2):
        chat.type("hold\n")
        chat.until("so far")
        chat.type("\x03")
        chat.until("# stopped")
        chat.until("> ")
    chat.type("hello\n")
    chat.until("HELLO\r\n> ")
    chat.type("/exit\n")
    chat.leave()


def test_interrupt_discards_the_line(chat: Chat) -> None:
    chat.type("half a line\x03")
    assert "Ctrl" not in chat.until("> ")
    chat.type("hello\n")
    chat.until("HELLO\r\n> ")


def test_two_interrupts_at_an_empty_prompt_leave(chat: Chat) -> None:
    chat.type("\x03")
    chat.until("# Ctrl-C again, or Ctrl-D, leaves")
    chat.until("> ")
    chat.type("hello\n")
    chat.until("HELLO\r\n> ")
    for _ in range(2):
        assert chat.process.poll() is None
        chat.type("\x03")
        chat.until("^C")
    chat.leave()


def test_a_signal_at_the_prompt_leaves(chat: Chat) -> None:
    chat.process.send_signal(signal.SIGINT)
    chat.leave()


def test_cancelling_does_not_wait_for_a_line_and_restores_the_terminal(
    environment: dict[str, str],
) -> None:
    chat = Chat(environment)
    try:
        before = termios.tcgetattr(chat.slave)
        chat.until("> ")
        chat.type("half a li")
        chat.until("half a li")
        assert termios.tcgetattr(chat.slave) != before
        chat.process.terminate()
        assert "cancelled" in chat.leave()
        assert termios.tcgetattr(chat.slave) == before
    finally:
        chat.close()


def test_after_the_console_has_been_left_an_interrupt_ends_the_service(
    environment: dict[str, str],
) -> None:
    chat = Chat({**environment, "SERVES_ON": "1"})
    try:
        chat.until("> ")
        chat.type("/exit\n")
        chat.until("console left")
        chat.type("\x03")
        chat.leave()
    finally:
        chat.close()


def test_history_is_kept_for_its_owner(chat: Chat, environment: dict[str, str]) -> None:
    chat.type("remember me\n")
    chat.until("> ")
    chat.type("\x04")
    chat.leave()
    file = Path(environment["XDG_STATE_HOME"]) / "edgellm" / "history"
    assert "remember me" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    again = Chat(environment)
    try:
        again.until("> ")
        again.type("\x10\n")
        again.until("REMEMBER ME")
    finally:
        again.close()


def test_history_that_cannot_be_saved_is_told(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    chat = Chat({**environment, "XDG_STATE_HOME": str(tmp_path / "file")})
    try:
        chat.until("> ")
        chat.type("\x04")
        assert "# the history is not saved" in chat.leave()
    finally:
        chat.close()


def test_answers_cannot_control_the_terminal(chat: Chat) -> None:
    chat.type("hostile\n")
    assert chat.until("> ") == "hostile\r\na]0;titlebc\r\n> "


def test_a_chat_whose_answers_go_into_a_file(environment: dict[str, str], tmp_path: Path) -> None:
    with (tmp_path / "answers").open("wb") as answers:
        chat = Chat(environment, answers.fileno())
    try:
        chat.until("> ")
        chat.type("hello\n")
        chat.until("> ")
        chat.type("hold\n")
        while "so far" not in (tmp_path / "answers").read_text():
            assert chat.process.poll() is None
            time.sleep(0.01)
        chat.type("\x03")
        chat.until("# stopped")
        chat.until("> ")
        chat.type("\x03")
        chat.leave()
        assert (tmp_path / "answers").read_text() == "HELLO\nso far\n"
    finally:
        chat.close()
