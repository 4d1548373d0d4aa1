"""What a backend offers to those who train: the operations that decide speed, in tinygrad's graph.

They are functions from Tensors to Tensors, and tinygrad goes back through them. Whatever else a
model computes is plain tinygrad.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from tinygrad import Tensor

    from edgellm.checkpoint import StoredTensor


@dataclass(frozen=True)
class Form:
    """How a frozen matrix lies in memory."""

    format: str
    """A key of `edgellm.packing.BLOCKS`."""
    shape: tuple[int, int]
    """(out, in)"""


@dataclass(frozen=True)
class Attention:
    """What attention does besides q·k and the shares of v."""

    scale: float
    cap: float = 0.0
    """Scores are bent to cap * tanh(score / cap); 0: they aren't."""
    window: int = 0
    """Positions that are looked back over, the own included; 0: all."""
    slopes: Tensor | None = None
    """ALiBi's (H,): slope * scale is taken off for each position that a key lies back."""


class Place(NamedTuple):
    """Where the result of an operation is kept."""

    memory: Tensor
    made: bool
    """The result stands there already, and isn't computed again."""


class Operations(Protocol):
    """Of one device; all numbers are float32. Gradients flow to what is said, and through nothing
    else. Results have memory of their own where they aren't given a `place`."""

    def pack(self, tensor: StoredTensor) -> tuple[Tensor, Form]:
        """A matrix of the model's file on the device, as small as in the file; and how it lies
        there."""

    def linear(
        self,
        x: Tensor,
        weight: Tensor,
        form: Form,
        low: Tensor | None = None,
        up: Tensor | None = None,
        place: Place | None = None,
    ) -> Tensor:
        """x (N, in) through a packed matrix: (N, out); plus low (N, rank) times the transpose of up
        (out, rank) where they are given. Gradients flow to x, low and up."""

    def product(
        self, a: Tensor, b: Tensor, turned: bool = False, place: Place | None = None
    ) -> Tensor:
        """a (M, K) times b (K, N), or times the transpose of b (N, K) if `turned`; both learn."""

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        first: Tensor,
        how: Attention,
        place: Place | None = None,
    ) -> Tensor:
        """Attention of q (B, T, H, C) to k and v (B, T, K, C); the result is as q is. Position t of
        row b sees those from first[b, t] up to itself; first (B, T) is int32. q, k, v learn."""

    def gated(self, gate: Tensor, up: Tensor, activation: str) -> Tensor:
        """activation(gate) * up, of one shape; the activation goes by the name it has in a Config.
        Both learn."""

    def entropy(self, scores: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """The cross-entropy (N,) of wanted tokens (N,), int32, by scores (N, V), and its gradient
        by them (N, V); both 0 where a wanted token is below 0. Gradients don't flow through."""

    def lookup(self, table: Tensor, which: Tensor) -> Tensor:
        """Rows of a table (L, W) by their numbers, int32 of any shape: (…, W). The table learns."""

    def close(self) -> None:
        """Free threads and memory; the operations can't be used afterwards."""


@runtime_checkable
class TrainingBackend(Protocol):
    """A backend that trains, too."""

    def training(self, threads: int | None = None) -> Operations:
        """What computes here, on so many threads (by default one for each processor); tinygrad is
        set to the device. Raises BackendError where something is missing."""
