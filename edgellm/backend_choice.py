"""Which backend runs a model where nobody has said: what the board allows, then what is faster."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgellm import __version__, folders, json_file, model_files, plugins, processor
from edgellm.errors import BackendError, EdgeError
from edgellm.executor import AdaptingBackend

if TYPE_CHECKING:
    from edgellm.executor import Backend, Executor

AUTO = "auto"
"""The device that stands for the choice."""
BUDGET_S = 2.0
"""What measuring all of them may take, besides loading and the first call of either kind."""
PROMPT, ANSWER = 128, 64
"""Tokens of a usual question and its answer, which the faster one is the faster at."""
MOST_ROWS = 64
"""Of a prompt that is measured."""
CONTEXT = 128
KEPT_S = 7 * 86400.0
"""How long a choice is kept: drivers come and go."""
MAX_FILE = 1 << 12


@dataclass(frozen=True)
class Chosen:
    """A backend, and why it is that one."""

    backend: str
    why: str


@dataclass(frozen=True)
class Speed:
    """In tokens per second."""

    prefill: float
    decode: float

    @property
    def seconds(self) -> float:
        """For a usual question and its answer."""
        return PROMPT / self.prefill + ANSWER / self.decode

    def __str__(self) -> str:
        return f"prefill {self.prefill:,.0f}, decode {self.decode:,.1f} tokens/s"


def installed() -> list[str]:
    """The backends that there are plugins of; imports none."""
    return [point.name for point in plugins.found("backend")]


def allowed() -> list[str]:
    """Those of them that this machine's board may use, in its profile's order; where that knows
    none of them, all. Raises FormatError for a user's profile that breaks the rules."""
    there = installed()
    if len(there) < 2:
        return there
    from edgellm import board

    return [name for name in board.detect().board.backends if name in there] or there


def usable(names: Iterable[str], find: Callable[[str], object]) -> list[str]:
    """Those that find a device here, without last resorts where there are others; `find` gives the
    backend, or raises an EdgeError. Raises BackendError where there is none."""
    found: list[str] = []
    resorts: list[str] = []
    reasons: list[str] = []
    for name in names:
        try:
            backend = find(name)
        except EdgeError as error:
            reasons.append(str(error))
        else:
            (resorts if getattr(backend, "last_resort", False) else found).append(name)
    if not (found or resorts):
        raise BackendError("; ".join(reasons) or "no backend is installed")
    return found or resorts


def wanted(device: str) -> str:
    """The device; for "auto" that in the environment, if there is one."""
    return os.environ.get("EDGELLM_DEVICE") or AUTO if device == AUTO else device


def adapting(device: str, find: Callable[[str], Backend]) -> str:
    """The device; for "auto" the first of the board's whose backend runs adapters."""
    if wanted(device) == AUTO:
        for name in allowed():
            with suppress(EdgeError):
                if isinstance(find(name), AdaptingBackend):
                    return name
    return device


def still_usable(path: Path, find: Callable[[str], object], device: str = AUTO) -> Chosen | None:
    """The device that is wanted; for "auto" what is `remembered` for a model, unless `find` raises
    an EdgeError for it."""
    device = wanted(device)
    if device != AUTO:
        return Chosen(device, "")
    kept = remembered(path)
    if kept is not None:
        try:
            find(kept.backend)
        except EdgeError:
            return None
    return kept


def remembered(path: Path) -> Chosen | None:
    """What was chosen for a model on this machine; where only one backend is installed, that."""
    there = installed()
    if len(there) == 1:
        return Chosen(there[0], "no other is installed")
    try:
        place = _place(path)
        if time.time() - place.stat().st_mtime > KEPT_S:
            return None
        kept = json_file.read(place, MAX_FILE)
    except (OSError, EdgeError):
        return None
    match kept:
        case {"backend": str(name), "why": str(why)} if name in there:
            return Chosen(name, why)
    return None


def remember(path: Path, chosen: Chosen) -> None:
    """Keep a choice, as far as the cache can be written."""
    with suppress(OSError, EdgeError):
        place = _place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = place.with_name(f"{place.name}.{os.getpid()}")
        draft.write_text(json.dumps({"backend": chosen.backend, "why": chosen.why}))
        draft.replace(place)


def fastest(names: Sequence[str], open: Callable[[str], Executor]) -> Chosen:
    """Measure each, and take the one that is done first with a usual question.

    `open` loads the model for a backend, with a context of at least CONTEXT. One that fails is left
    out. Raises the last one's error if all do.
    """
    speeds: dict[str, Speed] = {}
    told: list[str] = []
    failed: EdgeError | None = None
    for name in names:
        try:
            with named(name), closing(open(name)) as executor:
                speeds[name] = measure(executor, BUDGET_S / len(names))
            told.append(f"{name}: {speeds[name]}")
        except EdgeError as error:
            failed = error
            told.append(f"{name}: {failed}")
    if not speeds:
        assert failed is not None
        raise failed
    return Chosen(min(speeds, key=lambda name: speeds[name].seconds), "; ".join(told))


@contextmanager
def named(name: str) -> Iterator[None]:
    """Raise BackendError with a backend's name for what it raises in the block and shouldn't."""
    try:
        yield
    except EdgeError:
        raise
    except Exception as error:  # a plugin from outside
        words = f"the backend {name!r} failed ({type(error).__name__}: {error})"
        raise BackendError(words) from error


def measure(executor: Executor, seconds: float) -> Speed:
    """Decode first, then a prompt no longer than there is time for. Raises BackendError where the
    logits are none."""
    config, positions = executor.config, min(CONTEXT, executor.context)
    places = iter(range(1 << 62))

    def decode() -> None:
        at = next(places) % positions
        logits = executor.run([at % config.vocab], [0], [at], [0])
        if logits.shape != (1, config.vocab) or not np.isfinite(logits).all():
            raise BackendError("its logits are none")

    step = _median(decode, seconds / 2)
    rows = min(MOST_ROWS, positions, max(2, int(seconds / 4 / step)))
    tokens = [token % config.vocab for token in range(rows)]
    prompt = _median(lambda: executor.prefill(tokens, 0, 0), seconds / 2)
    return Speed(rows / prompt, 1 / step)


def _median(call: Callable[[], object], seconds: float) -> float:
    """Of a call's seconds, but for the first one, which may compile and tune."""
    call()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while not times or time.perf_counter() < until:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return max(float(np.median(times)), 1e-9)


def _place(path: Path) -> Path:
    """Where the choice for a model, among what is installed on this machine, is kept."""
    marks = [__version__, model_files.identity(path), *sorted(installed())]
    marks += [platform.machine(), str(os.cpu_count())]
    for file in ("proc/device-tree/model", "sys/class/dmi/id/product_name"):
        marks.append(processor.read_text(processor.ROOT / file))
    digest = hashlib.sha256("\0".join(marks).encode()).hexdigest()[:32]
    return folders.cache() / "choices" / f"{digest}.json"
