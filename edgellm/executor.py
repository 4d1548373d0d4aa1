"""The contract between the scheduler and whatever runs the model: Backend and Executor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgellm.checkpoint import Checkpoint
    from edgellm.config import Config

CHUNK = 32
"""Tokens of a prompt that are computed at once where nothing else is asked for."""

Progress = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)` while loading or compiling."""


class Cancelled(Exception):
    """The call under way was ended by `Executor.cancel`. None of its rows counts as fed."""


class Executor(Protocol):
    """Runs one model over a fixed number of slots, each the key-value memory of one sequence.

    Not thread-safe but for `cancel`: the scheduler calls it from one worker thread. A sequence's
    logits don't depend on the other sequences in the same step, nor on the slot. How its tokens
    were cut into calls changes them by no more than rounding, and not by a bit where `chunk` is 1;
    equal cuts, and copies of them, give equal bits.
    """

    config: Config
    context: int
    """Positions that a slot holds."""
    slots: int
    max_rows: int
    """The most rows of one `run`, `chunk` and `slots` at least."""
    chunk: int
    """Whoever wants equal bits cuts prompts at multiples of so many tokens; 1: wherever."""

    def run(
        self,
        tokens: Sequence[int],
        slots: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
    ) -> NDArray[np.float32]:
        """One step over any mix of rows, `max_rows` at most; returns logits (len(wanted), vocab).

        Row i feeds `tokens[i]` to slot `slots[i]` at `positions[i]`. Rows of the same slot stand
        together, at one position after the other. Positions below a slot's first row must have been
        filled before; those above its last are forgotten. `wanted` are the rows, ascending, whose
        logits are asked for; the array may be overwritten by the next call. Raises Cancelled.
        """

    def cancel(self) -> None:
        """From any thread: make the `run` under way, if there is one, raise Cancelled soon."""

    def step(
        self, tokens: Sequence[int], slots: Sequence[int], positions: Sequence[int]
    ) -> NDArray[np.float32]:
        """Feed one token to each of several sequences; returns logits (len(tokens), vocab).

        `tokens[i]` enters slot `slots[i]` at `positions[i]`; slots are distinct. Positions below it
        in that slot must have been filled before; those above are forgotten.
        """

    def prefill(
        self, tokens: Sequence[int], slot: int, position: int, every: bool = False
    ) -> NDArray[np.float32]:
        """Feed several tokens to one slot from `position` on.

        Returns the logits after the last token, (vocab,), or after every one, (len(tokens), vocab).
        Any number of tokens that fits the context is accepted.
        """

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of slot `source` into slot `target`."""

    def close(self) -> None:
        """Free the model's memory; the executor can't be used afterwards."""


class Backend(Protocol):
    """One kind of device that can run models."""

    name: str

    def probe(self) -> str | None:
        """Say in one line what was found ("AMD EPYC, 2 cores, AVX2"), or None if it can't run."""

    def open(
        self,
        checkpoint: Checkpoint,
        *,
        context: int,
        slots: int = 1,
        exact: bool = False,
        progress: Progress | None = None,
    ) -> Executor:
        """Load the checkpoint's weights, compile its steps and return what runs them.

        `exact` computes in float32 over exactly dequantised weights: the reference. Raises FitError
        where they don't fit, before memory is taken for them.
        """
