"""A process that runs turns of a test on demand: a worker of ours, or the peer's."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgellm.errors import BackendError, EdgeError, UsageError

FOLDER = Path(__file__).parent
# As a script, lest the package around it is imported too; -P keeps its folder out of the path.
WORKER = [sys.executable, "-P", str(FOLDER / "worker.py")]
PEERS = {"llama.cpp": ("peer.py", "llama_cpp", "llama-cpp-python")}
"""Script beside this file, module that it imports, and the package to install for it."""


class Process:
    """A child that speaks the protocol of `edgellm.bench.worker`. Close it to end it."""

    def __init__(self, command: Sequence[str], task: dict[str, object]) -> None:
        """Raises EdgeError with the child's reason if it can't load the model, BackendError if it
        ends."""
        self._name = " ".join(command)
        started = time.perf_counter()
        self._child = subprocess.Popen(
            [*command, json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C is the parent's affair, which ends the child.
            start_new_session=True,
        )
        try:
            self._answer()
            self.first_token_s = time.perf_counter() - started
            """From the start of the process to the first token, which follows on a single one."""
            self.about = self._answer()
            self.peak_rss_bytes: int = self.about.pop("peak_rss_bytes")
            """Highest resident memory of the child until its last answer."""
        except BaseException:
            self.close()
            raise

    def turn(self, test: str, tokens: int, depth: int, slots: int) -> float:
        """Run one turn of the test "prefill" or "decode"; returns its seconds."""
        order = {"test": test, "tokens": tokens, "depth": depth, "slots": slots}
        assert self._child.stdin is not None
        with suppress(BrokenPipeError):  # it has said why then, or is found to have ended
            print(json.dumps(order), file=self._child.stdin, flush=True)
        answer = self._answer()
        self.peak_rss_bytes = answer["peak_rss_bytes"]
        return float(answer["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise BackendError(f"{self._name} ended with status {self._child.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            error = EdgeError(answer["error"])
            error.exit_status = answer["status"]
            raise error
        return answer

    def close(self) -> None:
        """End the child, in the middle of a turn too."""
        self._child.kill()
        self._child.communicate()


def _is_gguf(model: Path) -> bool:
    try:
        with model.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def peer_command(name: str, python: str, model: Path) -> list[str]:
    """What runs the peer. Raises UsageError if there is none of that name or it can't read the
    model, BackendError if its package isn't installed."""
    if name not in PEERS:
        raise UsageError(f"nothing is known of {name!r}; compare with {', '.join(PEERS)}")
    script, module, package = PEERS[name]
    if not _is_gguf(model):
        raise UsageError(f"{model}: {name} runs GGUF files alone; compare on one")
    look = f"import importlib.util as u, sys; sys.exit(u.find_spec({module!r}) is None)"
    try:
        missing = subprocess.run([python, "-c", look]).returncode != 0
    except OSError as error:
        raise UsageError(f"{python} can't be run: {error.strerror}") from error
    if missing:
        raise BackendError(
            f"{python} has no {package}; install it there, or name a Python that has it by "
            "--peer-python"
        )
    return [python, str(FOLDER / script)]
