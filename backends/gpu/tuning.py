"""Which variant of the products a device runs fastest: measured once, then kept in the cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edgellm import folders
from edgellm.errors import EdgeError, UsageError
from edgellm.interleave import GROUP as GROUP_ROWS
from edgellm.packing import BLOCKS, packed_bytes

from .device import About, Argument, Device, Launch
from .sources import Texts, program

ROWS, COLUMNS, FORMAT = 4096, 1024, "Q4_0"
"""Of the matrix that is measured with."""
RUNS = 5
MOST_S = 1.0
"""After so long no further variant is tried."""


@dataclass(frozen=True)
class Tuning:
    """How the work of a product is cut. Results depend on `splits` alone."""

    wide: int
    """Outputs that a work item computes at once, as a vector."""
    splits: int
    """Work items that share the inputs of an output."""
    beside: int
    """Groups of eight outputs that a group of work items computes."""

    @property
    def items(self) -> int:
        """Of a group."""
        return GROUP_ROWS // self.wide * self.splits * self.beside


def candidates(about: About) -> Iterator[Tuning]:
    """Variants that the device can run, the likeliest first."""
    for wide in about.wide:
        shapes = [(1, 4), (1, 1), (2, 2)] if wide == 8 else [(8, 1), (4, 2), (16, 1), (32, 1)]
        for splits, beside in shapes:
            tuning = Tuning(wide, splits, beside)
            if tuning.items <= about.items:
                yield tuning


def tuned(device: Device, backend: str, texts: Texts) -> Tuning:
    """The device's variant, from the cache or measured now and put there."""
    path = _path(device.about, backend, texts)
    found = _read(path, device.about)
    if found is None:
        found = measure(device, texts)
        _write(path, found)
    return found


def measure(device: Device, texts: Texts) -> Tuning:
    """The fastest of the candidates. One that the driver refuses is passed over; raises its error
    where it refuses them all."""
    weights = device.allocate(packed_bytes(FORMAT, ROWS, COLUMNS))
    x, y = device.allocate(4 * COLUMNS), device.allocate(4 * ROWS)
    step = device.allocate(64)
    device.write(step, np.ones(16, np.int32))
    device.write(weights, np.zeros(weights.nbytes, np.uint8))
    device.write(x, np.zeros(COLUMNS, np.float32))
    best: tuple[float, Tuning] | None = None
    refused: EdgeError | None = None
    started = time.perf_counter()
    for tuning in candidates(device.about):
        try:
            arguments: list[Argument] = [
                step,
                0,
                x,
                COLUMNS,
                weights,
                y,
                ROWS,
                None,
                None,
                0,
                None,
                None,
                0,
            ]
            text = linear(texts, tuning, list(BLOCKS).index(FORMAT), rows=1)
            launch = device.program(text).launch("edge_linear", arguments, tuning.items)
            seconds = _seconds(device, launch, -(-ROWS // GROUP_ROWS // tuning.beside))
        except EdgeError as error:
            refused = error
            continue
        if best is None or seconds < best[0]:
            best = seconds, tuning
        if time.perf_counter() - started > MOST_S:
            break
    if best is None:
        assert refused is not None
        raise refused
    return best[1]


def linear(texts: Texts, tuning: Tuning, format: int, rows: int, half: bool = False) -> str:
    """The program of the products in one format."""
    defined = {"HALF_ARITHMETIC": 1} if half else {}
    return program(
        texts,
        ("formats.h", "linear.c"),
        WIDE=tuning.wide,
        SPLITS=tuning.splits,
        BESIDE=tuning.beside,
        FORMAT=format,
        ROWS=rows,
        **defined,
    )


def _seconds(device: Device, launch: Launch, groups: int) -> float:
    """The fastest of some runs, after one that may still compile."""
    seconds = []
    for _ in range(RUNS + 1):
        device.finish()
        started = time.perf_counter()
        launch((groups, 1, 1))
        device.finish()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def _path(about: About, backend: str, texts: Texts) -> Path | None:
    key = "\0".join((about.driver, texts["linear.c"], texts["formats.h"], texts["language.h"]))
    try:
        folder = folders.cache() / backend
    except UsageError:
        return None
    return folder / f"tuning-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"


def _read(path: Path | None, about: About) -> Tuning | None:
    """None where there is none that fits the device."""
    if path is None:
        return None
    try:
        found = Tuning(**json.loads(path.read_bytes()[:1024]))
    except (OSError, ValueError, TypeError):
        return None
    return found if found in candidates(about) else None


def _write(path: Path | None, tuning: Tuning) -> None:
    if path is None:
        return
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(asdict(tuning)))
        draft.replace(path)
