"""Matrices in the layouts that kernels read: groups of eight rows, interleaved.

A group holds its blocks along the columns one after the other; what a block says of eight rows lies
side by side, so that a kernel computes eight results at once. The last group is filled up with rows
of zeros. All numbers are little-endian. A lane is a 32-bit word of four bytes, for inputs 4v to
4v+3 of a block; `nibbles` is lane[4][8 rows], where lane v has the codes of inputs 4v… in its low
halves and those of 16+4v… in its high ones.

  F32 F16 BF16  value[8 rows] for each column
  Q4_0          f16 d[8], nibbles                                      d * (q - 8)
  Q4_1          f16 d[8], f16 m[8], nibbles                            d * q + m
  Q5_0          f16 d[8], nibbles, lane h[8]                           d * (q - 16)
  Q5_1          f16 d[8], f16 m[8], nibbles, lane h[8]                 d * q + m
                bit v of byte j of h is the fifth bit of input 4v+j
  Q8_0          f16 d[8], lane q[8][8 rows] of int8                    d * q
  Q4_K          f16 d[8], f16 dmin[8], u8 sc[8][8 rows], u8 m[8][8 rows],
                8 times nibbles                                        d * sc * q - dmin * m
  Q5_K          the same, with h[8] after each nibbles
  Q6_K          f16 d[8], i8 sc[16][8 rows], 8 times: nibbles, lane h[2][8 rows]
                bits 2v and 2v+1 of byte j of h[a] are the upper two of input 16a+4v+j
                                                                       d * sc * (q - 32)
  Q2_K          f16 d[8], f16 dmin[8], lane f[4][8 rows], 8 times: lane q[2][8 rows]
                byte j of f[v] has sc and m of inputs 16(4v+j)… in its low and its high half;
                bits 2v and 2v+1 of byte j of q[a] are input 16a+4v+j
                                                                       d * sc * q - dmin * m
  IQ4_NL        f16 d[8], nibbles                                      d * level[q]
  IQ4_XS        f16 d[8], i8 sc[8][8 rows], 8 times nibbles            d * sc * level[q]

Levels are those of `edgellm.quant.IQ4`. Blocks are of 32 columns, those of K formats and of IQ4_XS
of 256, with a scale for each 32 (Q6_K, Q2_K: 16).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgellm import quant
from edgellm.checkpoint import StoredTensor
from edgellm.interleave import GROUP, WRITERS, Stored, Write, floats, plain, signs
from edgellm.quant import Floats
from edgellm.tensor import MappedTensor, RearrangedTensor

PIECE = 1 << 19
"""Values packed at a time: few calls, and what they take fits into the cache."""

_NIBBLES = ("q", "<u4", (4, GROUP))
_FIFTH = ("h", "<u4", (GROUP,))
_D, _M = ("d", "<f2", (GROUP,)), ("m", "<f2", (GROUP,))
_DMIN = ("dmin", "<f2", (GROUP,))
_FACTORS = [_D, _DMIN, ("sc", "u1", (8, GROUP)), ("m", "u1", (8, GROUP))]

BLOCKS: dict[str, np.dtype[np.void]] = {
    "F32": np.dtype([("x", "<u4", (GROUP,))]),
    "F16": np.dtype([("x", "<u2", (GROUP,))]),
    "BF16": np.dtype([("x", "<u2", (GROUP,))]),
    "Q4_0": np.dtype([_D, _NIBBLES]),
    "Q5_0": np.dtype([_D, _NIBBLES, _FIFTH]),
    "Q8_0": np.dtype([_D, ("q", "<u4", (8, GROUP))]),
    "Q4_1": np.dtype([_D, _M, _NIBBLES]),
    "Q5_1": np.dtype([_D, _M, _NIBBLES, _FIFTH]),
    "Q4_K": np.dtype([*_FACTORS, ("sub", [_NIBBLES], (8,))]),
    "Q5_K": np.dtype([*_FACTORS, ("sub", [_NIBBLES, _FIFTH], (8,))]),
    "Q6_K": np.dtype(
        [_D, ("sc", "i1", (16, GROUP)), ("sub", [_NIBBLES, ("h", "<u4", (2, GROUP))], (8,))]
    ),
    "Q2_K": np.dtype(
        [_D, _DMIN, ("f", "<u4", (4, GROUP)), ("sub", [("q", "<u4", (2, GROUP))], (8,))]
    ),
    "IQ4_NL": np.dtype([_D, _NIBBLES]),
    "IQ4_XS": np.dtype([_D, ("sc", "i1", (8, GROUP)), ("sub", [_NIBBLES], (8,))]),
}
"""The packed formats in the order of their numbers, and one block of eight rows in each."""

FLOAT_FORMATS = ("F32", "F16", "BF16")

EXACT = {"TQ1_0": "Q4_0", "TQ2_0": "Q4_0", "Q3_K": "Q6_K"}
"""Types that are packed as another one without a change of their values."""

ROUNDED = ("F64", "I32", "I64")
"""Types that are packed in float32, with a rounding of their values."""

NOT_PACKED = ("shortconv.conv.weight", "_norm.weight", "_norm.bias")
"""How the names of those tensors end that are matrices only by their shapes."""

SMALL = 1 << 22
"""Up to so many values in all its matrices a model is packed in floats. With integer weights
activations are rounded to 8 bits, and narrow models of few layers average little of that out: it
can move their logits by a tenth of the range. What it would save them is 16 MiB at most."""


@dataclass(frozen=True)
class Packed:
    """What a packed matrix is."""

    format: str
    """A key of `BLOCKS`."""
    rows: int
    columns: int
    note: str
    """How its values differ in type or value from the stored ones; empty where they don't."""

    @property
    def nbytes(self) -> int:
        return packed_bytes(self.format, self.rows, self.columns)


def choose(tensor: StoredTensor) -> tuple[str, str]:
    """The format that a matrix is packed in, and a note on what that changes, or "".

    Told from the header alone.
    """
    stored = tensor.type
    if isinstance(tensor, RearrangedTensor) and tensor.kind != "moved":
        if tensor.kind == "ternary" and tensor.shape[-1] % quant.TYPES["Q4_0"].values == 0:
            return "Q4_0", "ternary values packed as Q4_0, their scale rounded to float16"
        stored = "F32"
    if stored in BLOCKS:
        return stored, ""
    format = EXACT.get(stored, "F32")
    loss = ", values rounded to float32" if stored in ROUNDED else ""
    return format, f"{stored} packed as {format}{loss}"


def formats(tensors: Mapping[str, StoredTensor]) -> dict[str, str]:
    """The formats of a model's matrices, told from the headers alone. Tensors that aren't among
    them are kept as they are, in float32."""
    matrices = {
        name: tensor
        for name, tensor in tensors.items()
        if len(tensor.shape) == 2 and not name.endswith(NOT_PACKED)
    }
    found = {name: choose(tensor)[0] for name, tensor in matrices.items()}
    if sum(math.prod(tensor.shape) for tensor in matrices.values()) > SMALL:
        return found
    return {name: each if each in FLOAT_FORMATS else "F32" for name, each in found.items()}


def packed_bytes(format: str, rows: int, columns: int) -> int:
    """Bytes of a packed matrix; `columns` must be a multiple of the format's block."""
    return -(-rows // GROUP) * (columns // quant.TYPES[format].values) * BLOCKS[format].itemsize


def pack_into(
    tensor: StoredTensor, out: memoryview | NDArray[np.uint8], format: str | None = None
) -> Packed:
    """Pack a matrix into `out`, which has exactly the bytes that `packed_bytes` says, in the format
    that `choose` tells, or in "F32".

    Works piece by piece: beside `out` it takes a few MB, whatever the size, but for tensors of a
    folder that are computed from others, whose values are made whole. Infinite and NaN scales stay
    what they are.
    """
    chosen, note = choose(tensor)
    if format not in (None, chosen):
        note = "" if tensor.type == format else f"{tensor.type} packed as {format}"
    format = format or chosen
    rows, columns = tensor.shape
    source, values, write = _source(tensor, format)
    width = columns // values
    target = np.frombuffer(out, dtype=BLOCKS[format])
    # A stored block of 256 values may become eight of 32.
    shape = (width, values // quant.TYPES[format].values)
    groups = target.reshape(-1, *(shape if shape[1] > 1 else shape[:1]))
    if len(groups) * GROUP - rows not in range(GROUP):
        raise ValueError(f"{len(target)} blocks for {rows} rows of {columns} columns")
    with np.errstate(all="ignore"):  # a file's scales may be infinite or NaN
        for part, across in _pieces(len(groups), width, values):
            blocks = source[part.start * GROUP : part.stop * GROUP, across]
            if len(blocks) % GROUP:
                blocks = _filled(blocks)
            write(blocks.reshape(-1, GROUP, blocks.shape[1]), groups[part, across])
    return Packed(format, rows, columns, note)


def unpack(
    data: bytes | memoryview | NDArray[np.uint8], format: str, rows: int, columns: int
) -> Floats:
    """The values of a packed matrix, by the formulas above: float32 arithmetic, one rounding an
    operation, d and sc multiplied first. `data` has exactly `packed_bytes` bytes."""
    blocks = np.frombuffer(data, BLOCKS[format])
    blocks = blocks.reshape(-(-rows // GROUP), columns // quant.TYPES[format].values)
    is_plain = BLOCKS[format].names == ("x",)
    with np.errstate(all="ignore"):
        values = _plain_values(blocks, format) if is_plain else _values(blocks, format)
    # (groups, …, 8 rows, inputs) to rows and columns
    unpacked: Floats = np.moveaxis(values, -2, 1).reshape(-1, columns)[:rows]
    return unpacked


def _pieces(groups: int, width: int, values: int) -> Iterator[tuple[slice, slice]]:
    """Parts of a matrix of at most about `PIECE` values: which groups, which blocks of them."""
    blocks = max(1, PIECE // (GROUP * values))
    across = min(width, blocks)
    down = max(1, blocks // max(1, width))
    for group in range(0, groups, down):
        for block in range(0, width, across):
            yield slice(group, min(group + down, groups)), slice(block, min(block + across, width))


def _filled(blocks: Stored) -> Stored:
    """With rows of zeros below, so that groups are whole."""
    filled = np.zeros((-(-len(blocks) // GROUP) * GROUP, blocks.shape[1]), blocks.dtype)
    filled[: len(blocks)] = blocks
    return filled


def _source(tensor: StoredTensor, format: str) -> tuple[Stored, int, Write]:
    """A matrix's blocks (rows, width) as they are stored, values of each, and what packs them."""
    kind = quant.TYPES[tensor.type]
    widened = format == "F32" and tensor.type != "F32"
    write = floats(kind) if widened else WRITERS.get(tensor.type, plain)
    if isinstance(tensor, MappedTensor):
        blocks = np.frombuffer(tensor.data, kind.dtype).reshape(tensor.shape[0], -1)
        return blocks, kind.values, write
    if isinstance(tensor, RearrangedTensor) and tensor.kind == "moved":
        return tensor.stored(), 1, write
    values = tensor.float32()
    if format == "Q4_0":
        d = np.abs(values).max(initial=0)
        return values.view(np.dtype([("x", "<f4", (32,))])), 32, signs(d)
    return values.view(quant.TYPES["F32"].dtype), 1, plain


def _plain_values(blocks: Stored, format: str) -> Floats:
    """(groups, columns, 8, 1)"""
    stored = blocks["x"].view(quant.TYPES[format].dtype)
    return quant.TYPES[format].expand(stored.reshape(-1)).reshape(*blocks.shape, GROUP, 1)


def _values(blocks: Stored, format: str) -> Floats:
    """(groups, width, …, 8 lanes, 8 rows, 4 inputs)"""
    codes = _codes(blocks, format)
    d, q = _scale(blocks["d"]), codes.astype(np.float32)
    if format in ("Q4_K", "Q5_K"):
        shift: Floats = _scale(blocks["dmin"])[:, :, None] * _scale(blocks["m"])
        return q * (d[:, :, None] * _scale(blocks["sc"])) - shift
    if format == "Q6_K":
        return (q - 32) * (d[:, :, None] * _of_halves(blocks["sc"]))
    if format == "Q2_K":
        both = np.swapaxes(blocks["f"][..., None].view(np.uint8), -1, -2)
        both = both.reshape(*blocks.shape, 16, GROUP)
        shift = _scale(blocks["dmin"])[:, :, None] * _of_halves(both >> 4)
        return q * (d[:, :, None] * _of_halves(both & 15)) - shift
    if format == "IQ4_NL":
        return quant.IQ4[codes] * d
    if format == "IQ4_XS":
        return quant.IQ4[codes] * (d[:, :, None] * _scale(blocks["sc"]))
    if format in ("Q4_1", "Q5_1"):
        return q * d + _scale(blocks["m"])
    return d * (q - {"Q4_0": 8, "Q5_0": 16, "Q8_0": 0}[format])


def _codes(blocks: Stored, format: str) -> NDArray[np.uint8] | NDArray[np.int8]:
    sub = blocks["sub"] if "sub" in (blocks.dtype.names or ()) else blocks
    lanes = sub["q"][..., None].view(np.uint8)
    if format == "Q8_0":
        return lanes.view(np.int8)
    if format == "Q2_K":
        return _pairs_of_bits(lanes)
    codes = np.concatenate([lanes & 15, lanes >> 4], axis=-3)
    if format == "Q6_K":
        codes |= _pairs_of_bits(sub["h"][..., None].view(np.uint8)) << 4
    elif format.startswith("Q5"):
        fifth = sub["h"][..., None].view(np.uint8)
        codes |= np.stack([fifth >> v & 1 for v in range(8)], axis=-3) << 4
    return codes


def _pairs_of_bits(lanes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(…, 2 lanes, 8 rows, 4) bytes to (…, 8 lanes, 8 rows, 4) numbers of two bits."""
    pairs: NDArray[np.uint8] = np.stack([lanes >> 2 * v & 3 for v in range(4)], axis=-3)
    return pairs.reshape(*lanes.shape[:-3], 8, GROUP, 4)


def _of_halves(factors: NDArray[Any]) -> Floats:
    """(groups, width, 16, 8 rows) for each lane and input: one for four lanes."""
    each: Floats = _scale(np.repeat(factors, 4, axis=2))
    return each.reshape(*factors.shape[:2], 8, 8, GROUP, 1)


def _scale(factors: NDArray[Any]) -> Floats:
    """(…, 8 rows) for each lane and input."""
    return factors.astype(np.float32)[..., None, :, None]
