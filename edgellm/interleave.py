"""From blocks as files store them to the packed blocks of eight rows of `edgellm.packing`.

Works on lanes, 32-bit words of four bytes, since moving bytes one by one would take far longer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgellm import quant

GROUP = 8
"""Rows that are packed together."""

Stored = NDArray[np.void]
Lanes = NDArray[np.uint32]

Write = Callable[[Stored, Stored], None]
"""From stored blocks (groups, 8, width) to packed ones, (groups, width) or, where a block becomes
eight, (groups, width, 8)."""


def _rows_last(values: NDArray[Any]) -> NDArray[Any]:
    """(groups, 8, …) to (groups, …, 8)"""
    return np.moveaxis(values, 1, -1)


def _lanes(values: NDArray[Any]) -> Lanes:
    """Bytes as lanes; a copy where they aren't aligned, which arithmetic would be slow on."""
    return np.require(values.view("<u4"), requirements="A")


LOW, HIGH = np.uint32(0x0F0F0F0F), np.uint32(0xF0F0F0F0)


def _split(lanes: Lanes, bits: int) -> Lanes:
    """(…, n) lanes of bytes to (…, 8 / bits, n) lanes of small numbers, the lowest bits first."""
    parts = 8 // bits
    out = np.empty((*lanes.shape[:-1], parts, lanes.shape[-1]), dtype=np.uint32)
    for i in range(parts):
        np.right_shift(lanes, np.uint32(i * bits), out=out[..., i, :])
    out &= np.uint32(((1 << bits) - 1) * 0x01010101)
    return out


def _gather(lanes: Lanes, bits: int) -> Lanes:
    """(…, n) lanes of small numbers to (…) lanes of bytes, the first in the lowest bits."""
    gathered = lanes[..., 0].copy()
    for i in range(1, lanes.shape[-1]):
        gathered |= lanes[..., i] << np.uint32(i * bits)
    return gathered


def _nibbles(lanes: Lanes) -> Lanes:
    """(…, 8) lanes of codes to (…, 4) of their lower four bits."""
    return lanes[..., :4] & LOW | (lanes[..., 4:] & LOW) << np.uint32(4)


def _nibbles_of_two(lanes: Lanes) -> tuple[Lanes, Lanes]:
    """(…, 8) lanes that hold one block's codes in their low halves and another's in their high
    ones, to (…, 4) of either."""
    a, b = lanes[..., :4], lanes[..., 4:]
    return a & LOW | (b & LOW) << np.uint32(4), a >> np.uint32(4) & LOW | b & HIGH


def plain(blocks: Stored, out: Stored) -> None:
    out["x"] = _rows_last(blocks["x"].view(out["x"].dtype))


def floats(kind: quant.TensorType) -> Write:
    def write(blocks: Stored, out: Stored) -> None:
        values = kind.expand(blocks.reshape(-1)).view("<u4")
        out["x"] = _rows_last(values.reshape(len(out), GROUP, *out.shape[1:]))

    return write


def _blocks_of_32(blocks: Stored, out: Stored) -> None:
    """Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL: stored blocks have their codes in lanes already."""
    for name in ("d", "m"):
        if name in (out.dtype.names or ()):
            out[name] = _rows_last(blocks[name])
    out["q"] = _rows_last(blocks["qs"].view("<u4"))
    if "h" in (out.dtype.names or ()):
        # Bit i of qh belongs to input i: two v's to a byte.
        spread = _SPREAD[blocks["qh"]]
        out["h"] = _rows_last(_gather(spread, 2))


_SPREAD = np.array(
    [sum((byte >> i & 1) << i % 4 * 8 + i // 4 for i in range(8)) for byte in range(256)],
    dtype=np.uint32,
)
"""Bit 4v+j of a byte at bit v of byte j of a lane."""


def _factors(blocks: Stored, out: Stored) -> None:
    """Of Q4_K and Q5_K: six bits each, the last four of either kind split in two."""
    a, b, c = np.moveaxis(_lanes(blocks["scales"]), -1, 0)
    six, high = np.uint32(0x3F3F3F3F), np.uint32(0x30303030)
    factors = [a & six, c & LOW | a >> np.uint32(2) & high]
    minima = [b & six, c >> np.uint32(4) & LOW | b >> np.uint32(2) & high]
    for name, lanes in (("sc", factors), ("m", minima)):
        out[name] = _rows_last(np.stack(lanes, axis=-1).view(np.uint8))
    for name in ("d", "dmin"):
        out[name] = _rows_last(blocks[name])


def _q4_k(blocks: Stored, out: Stored) -> None:
    _factors(blocks, out)
    q = out["sub"]["q"]
    even, odd = _nibbles_of_two(_lanes(blocks["qs"]).reshape(*blocks.shape, 4, 8))
    q[:, :, 0::2], q[:, :, 1::2] = _rows_last(even), _rows_last(odd)


def _q5_k(blocks: Stored, out: Stored) -> None:
    _q4_k(blocks, out)
    out["sub"]["h"] = _rows_last(_gather(_split(_lanes(blocks["qh"]), 1), 1))


def _q6_k(blocks: Stored, out: Stored) -> None:
    low = _lanes(blocks["ql"]).reshape(*blocks.shape, 2, 2, 8)
    q = out["sub"]["q"].reshape(*out.shape, 2, 4, 4, GROUP)
    first, second = _nibbles_of_two(low)
    q[:, :, :, :2], q[:, :, :, 2:] = _rows_last(first), _rows_last(second)
    upper = _split(_lanes(blocks["qh"]).reshape(*blocks.shape, 2, 8), 2)
    out["sub"]["h"] = _rows_last(_gather(upper.reshape(*blocks.shape, 8, 2, 4), 2))
    out["sc"] = _rows_last(blocks["scales"])
    out["d"] = _rows_last(blocks["d"])


def _q2_k(blocks: Stored, out: Stored) -> None:
    codes = _split(_lanes(blocks["qs"]).reshape(*blocks.shape, 2, 8), 2)
    out["sub"]["q"] = _rows_last(_gather(codes.reshape(*blocks.shape, 8, 2, 4), 2))
    out["f"] = _rows_last(_lanes(blocks["scales"]))
    for name in ("d", "dmin"):
        out[name] = _rows_last(blocks[name])


def _q3_k(blocks: Stored, out: Stored) -> None:
    """As Q6_K: its codes are 0…7 for -4…3, that one's 28…35."""
    low, upper = _lanes(blocks["scales"])[..., :2], _lanes(blocks["scales"])[..., 2:]
    scales = _split(low, 4) | _split(upper, 2).reshape(*blocks.shape, 2, 2) << np.uint32(4)
    out["sc"] = _rows_last(scales.reshape(*blocks.shape, 4).view(np.int8)) - np.int8(32)
    codes = _split(_lanes(blocks["qs"]).reshape(*blocks.shape, 2, 8), 2)
    codes = codes.reshape(*blocks.shape, 8, 8)
    codes |= _split(_lanes(blocks["hmask"]), 1) << np.uint32(2)
    codes += np.uint32(28 * 0x01010101)
    out["sub"]["q"] = _rows_last(_nibbles(codes))
    upper = (codes >> np.uint32(4)).reshape(*blocks.shape, 8, 2, 4) & np.uint32(0x03030303)
    out["sub"]["h"] = _rows_last(_gather(upper, 2))
    out["d"] = _rows_last(blocks["d"])


def _iq4_xs(blocks: Stored, out: Stored) -> None:
    low = np.stack([blocks["scales_l"] & 15, blocks["scales_l"] >> 4], axis=-1)
    high = blocks["scales_h"][..., None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    factors = (low.reshape(*blocks.shape, 8) | high << 4).astype(np.int8) - np.int8(32)
    out["sc"] = _rows_last(factors)
    out["sub"]["q"] = _rows_last(_lanes(blocks["qs"]).reshape(*blocks.shape, 8, 4))
    out["d"] = _rows_last(blocks["d"])


def _tq1_0(blocks: Stored, out: Stored) -> None:
    unscaled = blocks.copy()
    unscaled["d"] = 1
    digits = quant.TYPES["TQ1_0"].expand(unscaled.reshape(-1)).astype(np.int8)
    _ternary(blocks, _lanes(digits.reshape(*blocks.shape, 8, 32) + np.int8(8)), out)


def _tq2_0(blocks: Stored, out: Stored) -> None:
    codes = _split(_lanes(blocks["qs"]).reshape(*blocks.shape, 2, 8), 2)
    _ternary(blocks, codes.reshape(*blocks.shape, 8, 8) + np.uint32(7 * 0x01010101), out)


def _ternary(blocks: Stored, codes: Lanes, out: Stored) -> None:
    """As Q4_0: its codes are 7, 8 and 9 for -1, 0 and 1."""
    out["q"] = _rows_last(_nibbles(codes))
    out["d"] = _rows_last(blocks["d"])[..., None, :]


def signs(d: np.float32) -> Write:
    """Values -d, 0 and d as Q4_0."""

    def write(blocks: Stored, out: Stored) -> None:
        codes = (np.sign(blocks["x"]) + 8).astype(np.uint8)
        out["q"] = _rows_last(_nibbles(_lanes(codes)))
        out["d"] = d

    return write


WRITERS: dict[str, Write] = {
    **dict.fromkeys(("F32", "F16", "BF16"), plain),
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"), _blocks_of_32),
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_XS": _iq4_xs,
    "TQ1_0": _tq1_0,
    "TQ2_0": _tq2_0,
}
