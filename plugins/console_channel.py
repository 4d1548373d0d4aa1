"""`console:`, the chat at the terminal that the service runs in.

At a terminal each line is a question; lines are edited and remembered by readline. Ctrl-C stops the
answer, or discards the line; at an empty prompt, twice, it leaves, as do Ctrl-D and /exit.

Without a terminal on standard input each of its lines is a question, and the end of the input is
the end of the chat. If questions failed, the others are answered all the same, and the first error
is raised at the end.

Either way standard output gets the answers alone, each ended by a newline; what else there is to
say goes to standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

from edgellm import hookimpl
from edgellm.channel import Answer, Channel, Done, Service, Text
from edgellm.errors import EdgeError, UsageError
from edgellm.link.lines import (
    COMMANDS,
    Command,
    Event,
    Lines,
    Question,
    Rejected,
    Usage,
    explain,
    parse,
)
from edgellm.terminal import printable, write

log = logging.getLogger(__name__)

PROMPT = "> "
SESSION = "console:"
HISTORY = 1000
"""Questions that are remembered from one chat to the next."""
MAX_LINE = 1 << 20
"""Bytes of a piped question: here only the model's context should be the limit."""
CONSOLE = {
    **{name: COMMANDS[name] for name in ("new", "stop", "status")},
    "exit": Usage("", "", "leave; Ctrl-D does, too"),
    "help": COMMANDS["help"],
}
INTERRUPT = "\x03"
"""What Ctrl-C types at the prompt."""


@hookimpl
def edgellm_channel(url: str) -> Channel | None:
    return ConsoleChannel(url) if url.startswith("console:") else None


class ConsoleChannel:
    """One conversation, on this process's standard streams."""

    def __init__(self, url: str = "console:") -> None:
        if url not in ("console:", "console://"):
            raise UsageError(f"{url}: the console takes neither address nor option; say console:")
        self.url = url
        self._answer: Answer | None = None
        self._notices: list[str] = []  # that wait until the answer has ended
        self._failure: EdgeError | None = None  # the first, of a question that nobody watched
        self._reading: asyncio.Future[Any] | None = None

    async def serve(self, service: Service) -> None:
        """Chat until the input ends or somebody leaves.

        Raises UsageError without a standard input, BrokenPipeError when nobody takes the answers,
        and without a terminal, at the end, the first error that a question met.
        """
        if sys.stdin is None:
            raise UsageError("console: standard input is closed, so there is nothing to ask")
        chat = sys.stdin.isatty()
        interrupts = self._interrupts() if chat else contextlib.nullcontext()
        deaf = service.notices.listen(self._notice)
        try:
            with interrupts:
                async with contextlib.aclosing(self._events(chat)) as events:
                    async for event in events:
                        if event == Command("exit", ""):
                            break
                        await self._handle(event, service)
                        while self._notices:
                            _tell(f"# {self._notices.pop(0)}")
        finally:
            deaf()
            service.close(SESSION)
        if self._failure is not None and not chat:
            raise self._failure

    @contextlib.contextmanager
    def _interrupts(self) -> Iterator[None]:
        """While inside, Ctrl-C stops the answer; without one it ends the input."""

        def interrupt() -> None:
            if self._answer is not None:
                self._answer.stop()
            elif self._reading is not None and not self._reading.done():
                self._reading.set_exception(EOFError())

        loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)
        try:
            others = loop.remove_signal_handler(signal.SIGINT)
            loop.add_signal_handler(signal.SIGINT, interrupt)
        except (NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
            yield
            return
        try:
            yield
        finally:
            if others:  # asyncio doesn't give a handler back: let Ctrl-C now mean the other signal
                loop.add_signal_handler(signal.SIGINT, signal.raise_signal, signal.SIGTERM)
            else:
                loop.remove_signal_handler(signal.SIGINT)
                signal.signal(signal.SIGINT, before)

    # What comes in

    def _events(self, chat: bool) -> AsyncGenerator[Event, None]:
        if chat and sys.stdout.isatty():
            with contextlib.suppress(ImportError):  # Windows
                return self._typed(Terminal(sys.stdin.fileno()))
        return self._piped(PROMPT if chat else "")

    async def _typed(self, terminal: Terminal) -> AsyncGenerator[Event, None]:
        leaving = False
        with terminal:
            while True:
                try:
                    line = await self._wait_for(terminal.ask)
                except EOFError:
                    _tell("")  # what comes next begins a new line
                    return
                typed = printable(line)
                if INTERRUPT in line and not typed:
                    if leaving:
                        return
                    _tell("# Ctrl-C again, or Ctrl-D, leaves")
                leaving = INTERRUPT in line and not typed
                if INTERRUPT not in line and (event := parse(line, CONSOLE)):
                    terminal.remember(typed)
                    yield event

    async def _piped(self, prompt: str) -> AsyncGenerator[Event, None]:
        lines = Lines(MAX_LINE, CONSOLE)
        fd = sys.stdin.fileno()
        data = b"\n"
        with contextlib.suppress(EOFError):
            while data:
                print(prompt, end="", file=sys.stderr, flush=True)
                data = await self._wait_for(lambda: os.read(fd, 1 << 16))
                for event in lines.receive(data):
                    yield event
        for event in lines.receive_end():
            yield event

    async def _wait_for(self, call: Callable[[], Any]) -> Any:
        """The result of a call that may block for ever: its thread ends with the process."""
        loop = asyncio.get_running_loop()
        future = self._reading = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if not future.done():
                future.set_exception(error) if error else future.set_result(result)

        def work() -> None:
            result, failure = None, None
            try:
                result = call()
            except BaseException as error:
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(settle, result, failure)

        threading.Thread(target=work, name="console", daemon=True).start()
        return await future

    # What goes out

    async def _handle(self, event: Event, service: Service) -> None:
        try:
            match event:
                case Question(text):
                    await self._deliver(service.ask(SESSION, text))
                case Rejected(reason):
                    _tell(f"! {reason}")
                case Command("new"):
                    service.forget(SESSION)
                    _tell("# new conversation")
                case Command("stop"):  # there's no prompt while an answer runs
                    _tell("# nothing to stop; Ctrl-C stops a running answer")
                case Command("status"):
                    for name, value in service.status().items():
                        _tell(f"# {name}: {value}")
                case Command():
                    for line in explain(CONSOLE):
                        _tell(f"# {line}")
        except EdgeError as error:
            self._failure = self._failure or error
            _tell(f"! {error}")
        except OSError:  # our own output is gone: nothing to go on for
            raise
        except Exception:
            log.exception("%s failed", type(event).__name__)
            self._failure = self._failure or EdgeError("internal error")
            _tell("! internal error")

    def _notice(self, text: str) -> None:
        if self._answer is None and not sys.stdin.isatty():
            _tell(f"# {text}")
        else:  # the line has begun: with the answer, or with the prompt and what's typed there
            self._notices.append(text)

    async def _deliver(self, answer: Answer) -> None:
        reason, begun = "", False
        self._answer = answer
        try:
            async for event in answer:
                if isinstance(event, Text):
                    write(event.text)
                    begun = True
                elif isinstance(event, Done):
                    reason, begun = event.reason, True
        finally:
            self._answer = None
            if begun:
                write("\n")
        if reason == "cancel":
            _tell("# stopped")


class Terminal:
    """Asks for lines with readline, and remembers them in a file. Raises ImportError where the
    system has no such thing."""

    def __init__(self, fd: int) -> None:
        import readline
        import termios

        self._readline, self._termios, self._fd = readline, termios, fd
        self._libedit = "libedit" in (readline.__doc__ or "")
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        self._file = Path(state) / "edgellm" / "history"

    def __enter__(self) -> Terminal:
        self._settings = self._termios.tcgetattr(self._fd)
        readline = self._readline
        readline.set_auto_history(False)
        readline.set_history_length(HISTORY)
        if not self._libedit:
            # The prompt runs in a thread, where a signal would not end it. So Ctrl-C is a key
            # there: it goes to the line's end, types itself and enters the line.
            readline.parse_and_bind(r'"\C-c": "\C-e\C-v\C-c\C-m"')
        with contextlib.suppress(OSError):  # the first time, or no permission
            readline.read_history_file(self._file)
        return self

    def __exit__(self, *_: object) -> None:
        self._termios.tcsetattr(self._fd, self._termios.TCSANOW, self._settings)
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.touch(mode=0o600)
            self._readline.write_history_file(self._file)
        except OSError as error:
            _tell(f"# the history is not saved: {error}")

    def ask(self) -> str:
        """Wait for one line. A line that Ctrl-C was typed into holds INTERRUPT."""
        if self._libedit:
            return input(PROMPT)
        termios = self._termios
        settings = termios.tcgetattr(self._fd)
        key, settings[6][termios.VINTR] = settings[6][termios.VINTR], b"\0"
        termios.tcsetattr(self._fd, termios.TCSANOW, settings)
        try:
            return input(PROMPT)
        finally:
            settings[6][termios.VINTR] = key
            termios.tcsetattr(self._fd, termios.TCSANOW, settings)

    def remember(self, line: str) -> None:
        self._readline.add_history(line)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
