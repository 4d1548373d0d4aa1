"""What every check works with: a backend, small models built for it, and how to judge logits."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgellm import bundle, bundle_builder
from edgellm.bundle import Bundle
from edgellm.conformance import models
from edgellm.conformance.forward import Forward, Mistake
from edgellm.errors import UnsupportedError
from edgellm.key_folder import KeyFolder
from edgellm.manifest import Source

if TYPE_CHECKING:
    from edgellm.checkpoint import Checkpoint
    from edgellm.executor import KV, Backend, Executor

Logits = NDArray[np.float32]

CONTEXT = models.CONTEXT
SLOTS = 3
TOLERANCE = 0.02
"""Of a row's range of logits: what float16 may cost."""
COARSE = 0.04
"""What activations or keys and values in 8 bits may."""

MISTAKES = {
    "rotary positions pair the wrong channels": Mistake(rope="other style"),
    "rotary positions turn the wrong way": Mistake(rope="backwards"),
    "there are no rotary positions": Mistake(rope="none"),
    "queries are off by one position, too late": Mistake(query_shift=1),
    "queries are off by one position, too early": Mistake(query_shift=-1),
    "learned positions are off by one": Mistake(learned_shift=1),
    "a token attends to the one after it": Mistake(sight=1),
    "a token doesn't attend to itself": Mistake(sight=-1),
    "sliding windows aren't observed": Mistake(windows=False),
}
"""Of what a wrong result may be the right one."""


class Fault(Exception):
    """A backend breaks its contract; the text says how."""


@dataclass
class Workbench:
    """Bundles are built once and kept in `folder`, which is this run's own."""

    backend: Backend
    folder: Path

    def bundle(self, name: str) -> Bundle:
        """A family's, or one of a quantised type."""
        path, keys = self.folder / f"{name}.edge", KeyFolder(self.folder / "keys")
        if not path.exists():
            source = Source(name, 0, "0" * 64)
            target = self.backend.target()
            checkpoint = model(name)
            bundle_builder.build(checkpoint, path, self.backend, target, keys, source=source)
        return bundle.open(path, keys)

    def open(
        self, name: str, slots: int = SLOTS, context: int = CONTEXT, kv: KV | None = None
    ) -> AbstractContextManager[Executor]:
        """An executor that is closed at the end of the block."""
        return closing(self.opened(name, slots, context, kv))

    def opened(
        self, name: str, slots: int = SLOTS, context: int = CONTEXT, kv: KV | None = None
    ) -> Executor:
        bundle = self.bundle(name)
        return self.backend.open(bundle, context=context, slots=slots, threads=2, kv=kv)

    @functools.cached_property
    def usual(self) -> str:
        """The family that checks of anything but families are made with."""
        for name in models.FAMILIES:
            try:
                self.bundle(name)
            except UnsupportedError:
                continue
            return name
        raise Fault("it runs none of the families")


@functools.lru_cache(maxsize=4)
def model(name: str) -> Checkpoint:
    """A family's, or one of a quantised type."""
    return models.family(name) if name in models.FAMILIES else models.typed([name])


def prompt(count: int, seed: int = 0) -> list[int]:
    """Tokens of no meaning."""
    return [*map(int, np.random.default_rng(seed).integers(3, models.VOCAB, count))]


@functools.lru_cache(maxsize=16)
def expected(name: str, tokens: tuple[int, ...], mistake: Mistake = Mistake()) -> Logits:  # noqa: B008 - frozen
    """(len(tokens), vocab)"""
    return Forward(model(name), CONTEXT, mistake).logits(tokens)


def right(name: str, tokens: Sequence[int]) -> Logits:
    return expected(name, tuple(tokens))


def sound(found: object, rows: int) -> Logits:
    """What `run` and its kin returned, if it is logits of so many rows; raises Fault."""
    if not isinstance(found, np.ndarray) or found.dtype != np.float32:
        kind = found.dtype if isinstance(found, np.ndarray) else type(found).__name__
        raise Fault(f"logits are {kind}; an array of float32 is needed")
    if found.shape != (rows, models.VOCAB):
        raise Fault(f"logits have the shape {found.shape}; {(rows, models.VOCAB)} is needed")
    if not np.isfinite(found).all():
        row = int((~np.isfinite(found)).any(1).argmax())
        bad = int((~np.isfinite(found[row])).sum())
        raise Fault(f"NaN or infinity in {bad} logits of row {row}")
    return found.copy()


def error(found: Logits, wanted: Logits) -> NDArray[np.float64]:
    """Of each row, as a share of its range of logits."""
    return np.asarray(np.abs(found - wanted).max(1) / np.ptp(wanted, axis=1), np.float64)


def judge(name: str, tokens: Sequence[int], found: object, tolerance: float = TOLERANCE) -> float:
    """The largest error of the logits after each of `tokens`. Raises Fault where that is too large,
    with the explanation if there is one."""
    logits = sound(found, len(tokens))
    errors = error(logits, right(name, tokens))
    if errors.max() <= tolerance:
        return float(errors.max())
    first = int((errors > tolerance).argmax())
    raise Fault(
        f"logits differ by {errors.max():.1%} of their range from token {first} on"
        + explanation(name, tokens, logits, tolerance)
    )


def explanation(name: str, tokens: Sequence[int], found: Logits, tolerance: float) -> str:
    """Which mistake the logits would be right with, or ""."""
    for words, mistake in MISTAKES.items():
        wrong = expected(name, tuple(tokens), mistake)
        if error(found, wrong).max() <= tolerance:
            return f": {words}"
    return ""


def same(found: Logits, wanted: Logits, what: str) -> None:
    """Raise Fault unless they are equal to the bit."""
    if not np.array_equal(found, wanted):
        different, most = (found != wanted).sum(), np.abs(found - wanted).max()
        raise Fault(f"{what}: {different} of {found.size} logits differ, by up to {most:.2g}")
