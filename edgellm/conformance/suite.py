"""Puts a backend through the checks, each in a child process that may crash, hang or leak."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast

from edgellm.errors import BackendError

GRACE_S = 5.0
"""Beyond its time that a child may take to end itself, which a hang in machine code can prevent."""
START_S = 60.0
"""For the start of a child: drivers are slow to load."""

Status = Literal["passed", "declined", "failed"]


@dataclass(frozen=True)
class Outcome:
    """One row of the table."""

    check: str
    status: Status
    """declined: the backend says that it doesn't run such models."""
    words: str
    """What was found, or the fault."""
    seconds: float


class Child:
    """A process that does one check after the other."""

    def __init__(self, backend: str, folder: Path, limit: float) -> None:
        """Raises BackendError where the backend can't be had."""
        self._limit = limit
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        command = [sys.executable, "-m", "edgellm.conformance.child", backend, str(folder)]
        self._process = subprocess.Popen(
            [*command, str(limit)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is the parent's affair, which ends the child
        )
        status, self.probed = self._answer(START_S)
        if status != "ready":
            self.close()
            raise BackendError(f"{backend}: {self.probed}")

    def check(self, name: str) -> tuple[Status, str]:
        """Do a check; a child that has failed one is not to be used again."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{name}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            return "failed", self._ending()
        status, words = self._answer(self._limit + GRACE_S)
        return cast(Status, status), words

    def _answer(self, patience: float) -> tuple[str, str]:
        """A line of the child's, or what has become of it."""
        import selectors

        assert self._process.stdout is not None
        line, until = b"", time.monotonic() + patience
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, until - time.monotonic())):
                    return "failed", f"hang: no end within {patience:.0f} s"
                piece = self._process.stdout.read1(1 << 16)  # type: ignore[attr-defined]
                if not piece:
                    return "failed", self._ending()
                line += piece
        status, words = json.loads(line)
        return str(status), str(words)

    def _ending(self) -> str:
        """Why the process has ended."""
        code = self._process.wait()
        self._log.seek(0)
        said = self._log.read().decode(errors="replace")
        if "Timeout (" in said:
            where = re.search(
                r'File ".*?([^/"]+)", line (\d+) in (\w+)', said.rpartition("Timeout (")[2]
            )
            spot = f", in {where[1]}:{where[2]} {where[3]}" if where else ""
            return f"hang: no end within {self._limit:g} s{spot}"
        if code < 0:
            return f"crash: ended by {signal.Signals(-code).name}"
        last = said.strip().splitlines()[-1:] or ["no word"]
        return f"crash: ended with status {code}: {last[0]}"

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()


def run(backend: str, names: Iterable[str], limit: float) -> Iterator[Outcome]:
    """Do these checks on an installed backend, or on one given by its path, each within `limit`
    seconds; yields each outcome at once. Raises BackendError where the backend can't be had."""
    with tempfile.TemporaryDirectory(prefix="edgellm-check-") as folder:
        child: Child | None = None
        try:
            for name in names:
                child = child or Child(backend, Path(folder), limit)
                began = time.monotonic()
                status, words = child.check(name)
                yield Outcome(name, status, words, time.monotonic() - began)
                if status == "failed":  # it may have been left in any state
                    child.close()
                    child = None
        finally:
            if child is not None:
                child.close()
