"""Measures what a model costs on this machine: start-up, prefill and decode speed, memory, and the
share of the memory's bandwidth that decoding reaches; beside a peer on the same file where asked.

Strategy: each row of the result is measured in fresh processes, ours and the peer's, which stay
alive and take turns: they share neither memory nor threads, and a change of the machine's speed
meets both alike. All figures are medians.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm import board
from edgellm.bench.bandwidth import ReadBandwidth
from edgellm.bench.process import WORKER, Process, peer_command
from edgellm.errors import UsageError
from edgellm.processor import ROOT
from edgellm.sensors import NOW, UNDER_VOLTAGE, Reading, Sensors, words

if TYPE_CHECKING:
    from edgellm.executor import KV

STARTS = 3
"""The most processes that are started for the time to the first token."""
PAUSE = 0.05
"""Seconds between two turns: the threads of the last one stop looking for work meanwhile."""

ABOUT = ("model", "type", "parameters", "bytes", "weight_bytes")
RATIOS = {
    "prefill_ratio": "prefill_tok_s",
    "decode_ratio": "decode_tok_s",
    "first_token_ratio": "first_token_s",
    "peak_rss_ratio": "peak_rss_bytes",
}


@dataclass(frozen=True, kw_only=True)
class Test:
    """What one row measures."""

    threads: int = 0
    """0: as many as the model takes by itself."""
    prompt: int = 512
    """Tokens of the prompt; 0 leaves prefill out."""
    generate: int = 128
    """Tokens generated one by one; 0 leaves decoding out."""
    depth: int = 0
    """Tokens that are in the context before either."""
    batch: int = 1
    """Chats at once, each with such a prompt, such an answer and a depth of its own."""

    @property
    def context(self) -> int:
        """Positions that a chat needs."""
        return max(self.depth + max(self.prompt, self.generate), 1)


@dataclass(frozen=True)
class Figures:
    """One side of a row. Speeds are the sums over the batch's chats, in tokens a second."""

    prefill_tok_s: float | None
    decode_tok_s: float | None
    first_token_s: float
    """From the start of a process to its first token, with all that is kept on disk in place."""
    peak_rss_bytes: int
    """Highest resident memory of the process."""
    prefill_repeats: list[float]
    decode_repeats: list[float]
    first_token_repeats: list[float]


@dataclass(frozen=True)
class Row:
    """The result of one test."""

    model: str
    """Its name, as the file says it."""
    file: str
    type: str
    """Of most of the layers' weights."""
    parameters: int
    bytes: int
    """Of the tensors in the file."""
    device: str
    mode: str
    """"exact" or "fast"."""
    kv: str | None
    """How keys and values are kept; None: as the backend thinks best."""
    test: Test
    ours: Figures
    weight_bytes: int
    """Of weights that one step of decoding reads."""
    read_gb_s: float
    """Bandwidth of reading memory with as many threads, measured after each of our turns."""
    read_repeats: list[float]
    temperature_c: float | None = None
    """Of the processor, at most, after our turns; None where the machine doesn't say, as below."""
    clock: float | None = None
    """The slowest core's, at least, as a share of the most that it can do."""
    throttled: str | None = None
    """What the firmware or the supply complained of."""
    peer: str | None = None
    """Name and version."""
    theirs: Figures | None = None

    @property
    def read_share(self) -> float | None:
        """The share of that bandwidth at which decoding reads weights."""
        if self.ours.decode_tok_s is None:
            return None
        steps = self.ours.decode_tok_s / self.test.batch
        return self.weight_bytes * steps / 1e9 / self.read_gb_s

    def ratio(self, name: str) -> float | None:
        """Ours by theirs, of a field of Figures; None where either has none."""
        ours, theirs = getattr(self.ours, name), getattr(self.theirs, name, None)
        return None if ours is None or theirs is None else ours / theirs

    def as_dict(self) -> dict[str, object]:
        """All of it, flat: the peer's figures are called `peer_...`."""
        values = asdict(self)
        test, ours, theirs = values.pop("test"), values.pop("ours"), values.pop("theirs")
        values |= test | ours | {"read_share": self.read_share}
        if theirs is None:
            del values["peer"]
            return values
        values |= {f"peer_{name}": value for name, value in theirs.items()}
        return values | {name: self.ratio(field) for name, field in RATIOS.items()}


class _Side:
    """A process under test, and what it has given so far."""

    def __init__(self, test: Test, command: Sequence[str], **task: object) -> None:
        """`task` is what the worker is told, beside what the test needs."""
        self.test = test
        self.command = command
        self.task = {"context": test.context, "slots": test.batch, "threads": test.threads} | task
        self.starts: list[float] = []
        self.prefill: list[float] = []
        self.decode: list[float] = []

    def start(self) -> None:
        """Start a process anew, in place of the one before."""
        self.close()
        self.process = Process(self.command, self.task)
        self.starts.append(self.process.first_token_s)

    def warm_up(self) -> None:
        if self.test.depth:
            self.process.turn("prefill", self.test.depth, 0, self.test.batch)
        self.turn()
        self.prefill.clear()
        self.decode.clear()

    def turn(self) -> None:
        test = self.test
        for name, tokens in (("prefill", test.prompt), ("decode", test.generate)):
            if tokens:
                seconds = self.process.turn(name, tokens, test.depth, test.batch)
                getattr(self, name).append(tokens * test.batch / seconds)
                time.sleep(PAUSE)

    def figures(self) -> Figures:
        return Figures(
            statistics.median(self.prefill) if self.prefill else None,
            statistics.median(self.decode) if self.decode else None,
            statistics.median(self.starts),
            self.process.peak_rss_bytes,
            self.prefill,
            self.decode,
            self.starts,
        )

    def close(self) -> None:
        if self.starts:
            self.process.close()


def measure(
    path: str | os.PathLike[str] | None,
    tests: Sequence[Test],
    *,
    repetitions: int = 5,
    context: int | None = None,
    exact: bool = False,
    kv: KV | None = None,
    device: str = "auto",
    versus: str | None = None,
    peer_python: str = sys.executable,
    flash: str = "auto",
) -> Iterator[Row]:
    """Measure a model (None: the built-in one), row by row.

    `context` is as long as each test needs where it isn't given. `versus` names the peer, whose
    package is installed for `peer_python`; `flash` is "auto", "on" or "off", its flash attention.
    Raises UsageError if the context is shorter than a test needs or the peer can't run the file,
    BackendError if the peer isn't installed or a process ends, else what `edgellm.load` does.
    """
    if repetitions < 1:
        raise UsageError(f"{repetitions} repetitions; give at least 1")
    for test in tests:
        if context is not None and context < test.context:
            raise UsageError(f"a context of {context} tokens; these tests need {test.context}")
    if path is None:
        from edgellm.runtime import default_model

        path = default_model()
    command = None if versus is None else peer_command(versus, peer_python, Path(path))
    task: dict[str, object] = {"model": os.fspath(path)}
    if context is not None:
        task["context"] = context
    ours = {"exact": exact, "device": device, "kv": kv}
    # What the first start of all compiles and keeps, the others find.
    with closing(_Side(tests[0], WORKER, **task, **ours)) as side:
        side.start()
        threads = side.process.about["threads"]
    eyes = Sensors(ROOT, board.detect().board.thermal_zones)
    for test in tests:
        test = replace(test, threads=test.threads or threads)
        sides = [_Side(test, WORKER, **task, **ours)]
        if command is not None:
            sides.append(_Side(test, command, **task, flash=flash))
        with ExitStack() as stack:
            for side in sides:
                stack.callback(side.close)
            yield _row(sides, repetitions, eyes)


def _row(sides: Sequence[_Side], repetitions: int, eyes: Sensors) -> Row:
    for _ in range(min(repetitions, STARTS)):
        for side in sides:
            side.start()
    for side in sides:
        side.warm_up()
    test = sides[0].test
    read, seen = [], []
    with closing(ReadBandwidth(test.threads)) as bandwidth:
        for turn in range(repetitions):
            # Whoever comes second finds the caches, and perhaps the clock, as the first left them.
            for side in sides if turn % 2 == 0 else reversed(sides):
                side.turn()
                if side is sides[0]:
                    seen.append(eyes.read())
                    read.append(bandwidth.measure() / 1e9)
    task, about = sides[0].task, sides[0].process.about
    row = Row(
        test=test,
        ours=sides[0].figures(),
        read_gb_s=statistics.median(read),
        read_repeats=read,
        temperature_c=max((one.temperature_c for one in seen if one.temperature_c), default=None),
        clock=min((one.clock for one in seen if one.clock), default=None),
        throttled=_complaints(seen),
        file=str(task["model"]),
        device=str(about["device"]),
        mode="exact" if task["exact"] else "fast",
        kv=None if task["kv"] is None else str(task["kv"]),
        **{name: about[name] for name in ABOUT},
    )
    if len(sides) == 1:
        return row
    return replace(row, peer=sides[1].process.about["peer"], theirs=sides[1].figures())


def _complaints(seen: Sequence[Reading]) -> str | None:
    """Of all looks; "no" where there were none."""
    told = [one for one in seen if one.throttled is not None or one.under_voltage is not None]
    bits = 0
    for one in told:
        bits |= (one.throttled or 0) & NOW | (UNDER_VOLTAGE if one.under_voltage else 0)
    return (words(bits) or "no") if told else None
