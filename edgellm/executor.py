"""The contract between the scheduler and whatever runs the model: Backend and Executor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgellm.adapter import Adapter
    from edgellm.board_profile import Board
    from edgellm.bundle import Bundle
    from edgellm.bundle_writer import BundleWriter
    from edgellm.checkpoint import Checkpoint
    from edgellm.config import Config

CHUNK = 32
"""Tokens of a prompt that are computed at once where nothing else is asked for."""

ROWS, BLOCK = 128, 16
"""The most tokens that are computed at once, and positions that slots are made of, as plans of
memory have it (`edgellm.plan`); an executor may do with less."""

Progress = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)` while loading or compiling."""

KV = Literal["f32", "f16", "int8"]
"""How keys and values may be kept; each backend has some of them."""


class Cancelled(Exception):
    """The call under way was ended by `Executor.cancel`. None of its rows counts as fed."""


class Choice(Protocol):
    """Picks tokens out of logits (vocab,), faster than NumPy does."""

    def argmax(self, logits: NDArray[np.float32]) -> int:
        """The likeliest token, of equals the lowest; NaN counts as minus infinity."""

    def top_k(
        self, logits: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The k likeliest tokens (or all) and their logits, likeliest first, else as `argmax`."""


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
    threads: int
    """That compute at once. Whoever calls `run` may set it between two calls, to 1 at least and to
    what it was at first at most, which changes no bit of the results."""
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
        logits are asked for; the array may be overwritten by the next call. Raises Cancelled, and
        ValueError where there is no place for the rows, of which none is fed then.
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

    @property
    def choice(self) -> Choice | None:
        """What picks tokens out of its logits; None: NumPy."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of slot `source` into slot `target`. Raises ValueError
        where there is no place for them."""

    def close(self) -> None:
        """Free the model's memory; the executor can't be used afterwards."""


@dataclass(frozen=True)
class Target:
    """A kind of processor that a backend compiles for."""

    name: str
    """As `--target` takes it: "avx2", "cortex_a76"."""
    machine: str
    """As `platform.machine()` has it: "x86_64", "aarch64"."""
    features: tuple[str, ...] = ()
    """What the processor must have, in the backend's terms."""


class Backend(Protocol):
    """One kind of device that can run models.

    Building and running are apart: `build` may need a compiler, tinygrad and minutes, and may be
    for another machine; `open` needs none of them.

    One whose attribute `last_resort` is true runs only what no other backend can, unless it is
    asked for by name: its device is the very processor that another one computes on.
    """

    name: str

    def probe(self) -> str | None:
        """Say in one line what was found ("AMD EPYC, 2 cores, AVX2"), or None if it can't run."""

    def target(self, name: str | None = None, board: str | Board | None = None) -> Target:
        """The target of that name, or of a board; of neither, the best that this machine runs.

        Raises UsageError for one that it doesn't know, BackendError where it can't run here or
        there.
        """

    def lacks(self, target: Target) -> str | None:
        """What this machine lacks to run what was compiled for `target` ("this processor has no
        avx512_vnni"); None if it runs it."""

    def compiler(self, target: Target) -> str:
        """What would compile for `target` ("clang 20.1.2"). Raises BackendError where nothing
        does."""

    def recipe(self) -> str:
        """A hash that changes when builds turn out otherwise: over the sources of kernels, and the
        like. Quick, for every start with a model file asks."""

    def build(
        self,
        checkpoint: Checkpoint,
        target: Target,
        writer: BundleWriter,
        progress: Progress | None = None,
    ) -> None:
        """Give the writer the packed tensors, the compiled code and, if `open` wants it, the step's
        graph. Raises UnsupportedError for a model that the backend doesn't run."""

    def open(
        self,
        bundle: Bundle,
        *,
        context: int,
        slots: int = 1,
        threads: int | None = None,
        kv: KV | None = None,
        progress: Progress | None = None,
    ) -> Executor:
        """Return what runs a bundle that this backend has built; it is used until the executor is
        closed. How many threads there are, and how keys and values are kept, is by default what it
        finds best.

        Raises FitError where the system or the device refuses memory, or where the backend needs
        more than `edgellm.plan` says, which whoever calls it has looked at, and there isn't so
        much; UsageError for a `kv` that the backend hasn't.
        """

    def reference(
        self,
        checkpoint: Checkpoint,
        *,
        context: int,
        slots: int = 1,
        progress: Progress | None = None,
    ) -> Executor:
        """Load the checkpoint and return what runs it in float32 over exactly dequantised weights;
        else as `open`."""


class AdaptingExecutor(Executor, Protocol):
    """An executor that was opened with adapters."""

    def adapt(self, slot: int, strengths: Sequence[float]) -> None:
        """Compute a slot's rows from now on with the adapters at these strengths, one for each; 0
        is off, as all are at first.

        With other strengths than before what the slot holds is of no use any more: its next row is
        to be at position 0, or after a copy from a slot with the same ones.
        """


@runtime_checkable
class AdaptingBackend(Backend, Protocol):
    """A backend that runs adapters (`edgellm.adapter`) too. Others needn't know of them."""

    adapts: bool
    """Only that it is there matters."""

    def open(
        self,
        bundle: Bundle,
        *,
        context: int,
        slots: int = 1,
        threads: int | None = None,
        kv: KV | None = None,
        adapters: Sequence[Adapter] = (),
        progress: Progress | None = None,
    ) -> AdaptingExecutor:
        """As `Backend.open`; raises UsageError for an adapter that the graph has no product for."""

    def reference(
        self,
        checkpoint: Checkpoint,
        *,
        context: int,
        slots: int = 1,
        adapters: Sequence[Adapter] = (),
        progress: Progress | None = None,
    ) -> AdaptingExecutor:
        """As `Backend.reference`."""


@runtime_checkable
class TinygradBackend(Backend, Protocol):
    """A backend on whose device tinygrad computes."""

    def prepare(self) -> None:
        """Let tinygrad compute there, in this process from now on. Raises BackendError where
        nothing compiles for it."""
