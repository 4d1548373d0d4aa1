"""Plan: the memory that a model takes while it runs, told from its header alone; whether there is
so much; and if not, what would take less, in the order of least harm.

What a process holds besides weights, keys and values was measured on x86-64 (Python 3.11): see the
constants. Weights are mapped from the bundle, but all of them are read, so all count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgellm import memory, packing, quant
from edgellm.bundle import Bundle
from edgellm.checkpoint import Checkpoint
from edgellm.config import Config, Layer, rows_shape
from edgellm.executor import BLOCK, CHUNK, KV, ROWS
from edgellm.layout import TABLES
from edgellm.memory import size

if TYPE_CHECKING:
    from edgellm.bundle import PackedTensor
    from edgellm.checkpoint import ModelFile, TensorInfo
    from edgellm.tokenizer import TokenizerData

RUNTIME_BYTES = 78 << 19
"""Python, NumPy and edgellm, with a bundle opened."""
TENSOR_BYTES = 4 << 10
"""Of what is said of each tensor of the bundle, and done with it in a step."""
SERVICE_BYTES = 15 << 20
"""What chat, run and serve have besides: the event loop, the scheduler, a template's sandbox."""
REFERENCE_BYTES = 80 << 20
"""Python, NumPy and tinygrad, before the first weight is loaded."""
TOKEN_BYTES, SPELLED_BYTES = 85, 85
"""Of the vocabulary's tokens, each, besides its text: as it is opened, and once a text is put into
tokens."""
DRAWING_BYTES = 16
"""Of each logit, while a token is drawn."""
SPREAD_ROWS, SPREAD = 8, 256
"""Attention of so few rows is spread over chunks of so many positions, each with a result."""
SHARE = 0.85
"""Of the bandwidth at which memory is read, what decoding reaches (facts of many boards)."""
SHORTEST = 512
"""Tokens of context below which a conversation is hardly one."""
SMALLER = ("Q8_0", "Q4_0")
"""Types that a model may be had in, which take less than its own."""
VALUES = {"f32": 4, "f16": 2, "int8": 1}
"""Bytes of a key's or a value's number."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one choice takes; all of it in bytes."""

    context: int
    """Positions of each of `slots` chats."""
    slots: int
    kv: KV
    quantisation: str
    """The type that the weights would be converted to; empty: as they are."""
    weights: int
    keys_values: int
    """Of all chats, with their contexts full."""
    tables: int
    """Of positions."""
    scratch: int
    """What a step works on."""
    vocabulary: int
    runtime: int
    read: int
    """Weights that the decoding of a token reads."""

    @property
    def total(self) -> int:
        """The most that the process takes."""
        parts = (self.weights, self.keys_values, self.tables, self.scratch)
        return sum(parts) + self.vocabulary + self.runtime

    def tokens_per_second(self, read_gb_s: float, filled: float = 0) -> float:
        """A prediction for one chat on a machine whose memory is read so fast, in 10^9 bytes a
        second, with that share of its context filled."""
        step = self.read + filled * self.keys_values / self.slots
        return SHARE * read_gb_s * 1e9 / step

    def flags(self, other: Plan) -> str:
        """What to say on the command line, and to do, for this plan in place of the other."""
        changed = [
            f"-c {self.context}" if self.context != other.context else "",
            f"--kv {self.kv}" if self.kv != other.kv else "",
            f"-np {self.slots}" if self.slots != other.slots else "",
            f"the model in {self.quantisation}" if self.quantisation != other.quantisation else "",
        ]
        return " and ".join(filter(None, changed))


@dataclass(frozen=True)
class Room:
    """Memory that there is for a process."""

    nbytes: int
    name: str
    """ "this machine"; "Raspberry Pi 5 with 4 GiB"."""


def here() -> Room | None:
    """What this machine has left; None where the system doesn't tell."""
    left = memory.available()
    return None if left is None else Room(left, "this machine")


def of_board(title: str, gib: float) -> Room:
    """What a board of so much memory leaves beside its system: ours to say, by what a Raspberry Pi
    OS without a desktop takes."""
    whole = round(gib * (1 << 30))
    return Room(whole - whole // 16 - (160 << 20), f"{title} with {gib:g} GiB")


def usual_kv(device: str) -> KV:
    """How keys and values are kept where nothing is said; of devices other than the CPU the kind
    that takes most is assumed."""
    return "f16" if device in ("cpu", "auto") else "f32"


def of(
    file: ModelFile,
    *,
    context: int,
    slots: int = 1,
    kv: KV = "f16",
    quantisation: str = "",
    service: bool = True,
) -> Plan:
    """The plan of a model that runs from a bundle: this one, or the one that would be built of it.

    `quantisation` is another type of weights. With `service` the model is chatted with or served,
    else it is used from Python.
    """
    config, kept = file.config, -(-context // BLOCK) * BLOCK
    weights = packed(file, quantisation)
    partial = SPREAD_ROWS * config.heads * -(-kept // SPREAD) * (config.head_dim + BLOCK) * 4
    runtime = RUNTIME_BYTES + TENSOR_BYTES * len(weights)
    if service:
        runtime += SERVICE_BYTES + (SPELLED_BYTES + DRAWING_BYTES) * config.vocab
    read = dict(weights)
    if "output.weight" in read:  # of the embedding only one row is read
        del read["token_embd.weight"]
    return Plan(
        context=context,
        slots=slots,
        kv=kv,
        quantisation=quantisation,
        weights=sum(weights.values()),
        keys_values=sum(_state(config, layer, kept, kv) for layer in config.layers) * slots,
        tables=sum(4 * kept * rope.dim for rope in config.ropes),
        scratch=max(ROWS, slots) * row_bytes(config, file.tensors)
        + slots * 4 * config.vocab
        + partial,
        vocabulary=_vocabulary(file.tokenizer),
        runtime=runtime,
        read=sum(read.values()),
    )


def reference(file: ModelFile, *, context: int, slots: int = 1) -> Plan:
    """The plan of `--exact`: while it loads, or with its slots, whichever takes more."""
    config = file.config
    positions = context + min(CHUNK, context)
    weights = loading = 0
    for name, tensor in file.tensors.items():
        if name not in TABLES:
            nbytes = 4 * math.prod(tensor.shape)
            weights += nbytes
            loading = max(loading, weights + nbytes)  # dequantised, then copied
    rows = sum(math.prod(rows_shape(config, layer, positions, slots)) for layer in config.layers)
    tables = sum(positions * rope.dim for rope in config.ropes)
    if config.position == "learned":
        tables += positions * config.dim
    # Each kind of layer keeps its scores and their exponentials, as was measured.
    kinds = len({layer for layer in config.layers if layer.kind == "attention"})
    scratch = 2 * kinds * config.heads * CHUNK * positions
    return Plan(
        context=context,
        slots=slots,
        kv="f32",
        quantisation="",
        weights=weights,
        keys_values=4 * rows,
        tables=4 * tables,
        scratch=max(4 * scratch, loading - weights - 4 * (rows + tables)),
        vocabulary=0,
        runtime=REFERENCE_BYTES,
        read=weights,
    )


def packed(file: ModelFile, quantisation: str = "") -> dict[str, int]:
    """Bytes of each tensor as a bundle has it, or would have it with weights of another type."""
    formats = _formats(file)
    if quantisation:
        formats = {
            name: _converted(name, each, file, quantisation) for name, each in formats.items()
        }
    return {
        name: packing.packed_bytes(formats[name], *tensor.shape)
        if name in formats
        else 4 * math.prod(tensor.shape)
        for name, tensor in file.tensors.items()
        if name not in TABLES
    }


def row_bytes(config: Config, tensors: Mapping[str, TensorInfo]) -> int:
    """Of what a step works on, for one token: the layer's input, its norm, and either the
    feed-forward's two wide rows or attention's, with the int8 codes of products' inputs."""
    dim, wide = config.dim, config.hidden
    gated = any(
        "ffn_gate" in name or tensor.shape[0] == 2 * wide for name, tensor in tensors.items()
    )
    forward = 4 * (2 * dim + (2 if gated else 1) * wide) + _codes(wide)
    query = config.heads * config.head_dim
    keys = max(layer.kv_heads for layer in config.layers) * config.head_dim
    attention = 4 * (2 * dim + 2 * query + 4 * keys) + _codes(dim)
    return max(forward, attention)


def smaller(file: ModelFile, plan: Plan, room: Room, service: bool = True) -> Iterator[Plan]:
    """Plans of the same model that fit, in the order of least harm: a shorter context, keys and
    values in 8 bits, both, smaller types of weights, fewer chats, and at last all of it."""

    def fitting(context: int, kv: KV, quantisation: str, slots: int) -> Plan | None:
        other = of(
            file, context=context, slots=slots, kv=kv, quantisation=quantisation, service=service
        )
        return other if other.total <= room.nbytes else None

    lengths = [plan.context >> shift for shift in range(1, plan.context.bit_length())]
    shorter = [length for length in lengths if length >= SHORTEST]
    types = [kind for kind in SMALLER if _is_smaller(file, kind)]
    eight: KV = "int8"
    choices: list[list[tuple[int, KV, str, int]]] = [
        [(length, plan.kv, "", plan.slots) for length in shorter],
        [(plan.context, eight, "", plan.slots)] if plan.kv != eight else [],
        [(length, eight, "", plan.slots) for length in shorter] if plan.kv != eight else [],
        [(plan.context, plan.kv, kind, plan.slots) for kind in types],
        [(plan.context, plan.kv, "", slots) for slots in range(plan.slots - 1, 0, -1)],
        [
            (length, eight, kind, slots)
            for slots in sorted({plan.slots, 1}, reverse=True)
            for length in [plan.context, *shorter]
            for kind in types
        ],
    ]
    both, last = choices[2], choices[-1]
    found = False
    for group in choices:
        if found and group in (both, last):
            continue  # one change was enough
        for choice in group:
            if other := fitting(*choice):
                found = True
                yield other
                break


def check(
    file: Checkpoint | Bundle, *, context: int, slots: int, kv: KV, exact: bool = False
) -> None:
    """Raise FitError if what would be run needs more memory than this machine has left."""
    if exact and not isinstance(file, Bundle):
        require(file, reference(file, context=context, slots=slots))
    else:
        require(file, of(file, context=context, slots=slots, kv=kv))


def require(file: ModelFile, plan: Plan, room: Room | None = None) -> None:
    """Raise FitError, with what would help, if a plan needs more memory than there is: in `room`,
    or left in this machine."""
    room = room or here()
    if room is None or plan.total <= room.nbytes:
        return
    remedy = "a smaller model takes less"
    if plan.kv != "f32" and (other := next(smaller(file, plan, room), None)):
        remedy = f"{other.flags(plan)} fits, with {size(other.total)}"
    memory.require(
        file.path, plan.total, plan.context, plan.slots, (room.name, room.nbytes), remedy
    )


def _formats(file: ModelFile) -> dict[str, str]:
    """The packed formats of a model's matrices."""
    if file.format == "edge":
        tensors: Mapping[str, PackedTensor] = file.tensors  # type: ignore[assignment]
        return {name: one.format for name, one in tensors.items() if one.format in packing.BLOCKS}
    matrices = {name: one for name, one in file.tensors.items() if name not in TABLES}
    return packing.formats(matrices)  # type: ignore[arg-type]


def _converted(name: str, format: str, file: ModelFile, to: str) -> str:
    """As quantisers convert a matrix: the one that makes logits stays finer, rows that aren't whole
    blocks stay as they are, and none becomes larger."""
    columns = file.tensors[name].shape[1]
    if name in ("output.weight", "token_embd.weight") and to == "Q4_0":
        to = "Q6_K" if columns % 256 == 0 else "Q8_0"
    fits = columns % quant.TYPES[to].values == 0
    return to if fits and _bits(to) < _bits(format) else format


def _bits(format: str) -> float:
    return packing.BLOCKS[format].itemsize / quant.TYPES[format].values


def _is_smaller(file: ModelFile, to: str) -> bool:
    return any(_converted(name, each, file, to) != each for name, each in _formats(file).items())


def _state(config: Config, layer: Layer, kept: int, kv: KV) -> int:
    """What a layer remembers of one chat."""
    values = math.prod(rows_shape(config, layer, kept, 1))
    if layer.kind == "conv":
        return 4 * values
    scales = 2 * values // config.head_dim if kv == "int8" else 0
    return VALUES[kv] * values + scales


def _codes(width: int) -> int:
    """Of a row in int8: codes, and a scale and two sums for each 32 of them."""
    return -(-(width + width // 32 * 12) // 64) * 64


def _vocabulary(tokenizer: TokenizerData | None) -> int:
    if tokenizer is None:
        return 0
    strings = _text_bytes(tokenizer.tokens) + _text_bytes(tokenizer.merges)
    return strings + TOKEN_BYTES * len(tokenizer.tokens)


def _text_bytes(texts: Sequence[str]) -> int:
    """As every eighth of them tells: they may be a hundred thousand, and a start waits for this."""
    some = texts[::8]
    # Python hands memory out in pieces of 16 bytes.
    taken = sum(-(-text.__sizeof__() // 16) * 16 for text in some)
    return taken * len(texts) // max(1, len(some))
