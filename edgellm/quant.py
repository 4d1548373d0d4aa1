"""GGUF's tensor types: their blocks as NumPy structures, exact dequantisation, and quantisation.

A block holds a fixed number of consecutive values. Values come out bit for bit as the format's
definition says: float32 arithmetic, one rounding an operation, in the order of the formulas below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgellm.errors import UnsupportedError

Bytes = bytes | bytearray | memoryview | NDArray[np.uint8]
Blocks = NDArray[np.void]
Floats = NDArray[np.float32]

CHUNK = 1 << 15
"""Values dequantised at a time: small enough that the intermediate arrays stay in the cache."""


@dataclass(frozen=True)
class TensorType:
    """How one type stores its values."""

    name: str
    id: int | None
    """Number in GGUF files; None for types that only safetensors has."""
    values: int
    """Values in a block."""
    dtype: np.dtype[np.void]
    """The block's layout."""
    expand: Callable[[Blocks], Floats]
    """Blocks (n,) to values, an array of n * values in any shape."""

    @property
    def block_bytes(self) -> int:
        return self.dtype.itemsize

    def nbytes(self, shape: Sequence[int]) -> int:
        """Bytes of a row-major tensor; `shape[-1]` must be a multiple of `values`."""
        return math.prod(shape) // self.values * self.block_bytes


def dequantise(name: str, data: Bytes, shape: Sequence[int]) -> Floats:
    """The values of a tensor of type `name`, float32 of `shape`; F32 data isn't copied.

    `data` must be exactly as long as `TYPES[name].nbytes(shape)` says.
    """
    kind = TYPES[name]
    if name == "F32":
        stored = np.frombuffer(data, dtype="<f4").reshape(shape)
        return np.require(stored, dtype=np.float32, requirements="A")
    blocks = np.frombuffer(data, dtype=kind.dtype)
    out = np.empty(len(blocks) * kind.values, dtype=np.float32)
    step = max(1, CHUNK // kind.values)
    with np.errstate(all="ignore"):  # a file's scales may be infinite or NaN; so are its values
        for start in range(0, len(blocks), step):
            part = blocks[start : start + step]
            first = start * kind.values
            out[first : first + len(part) * kind.values] = kind.expand(part).reshape(-1)
    return out.reshape(shape)


def quantise(name: str, values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Blocks of type "F32", "F16", "BF16", "Q8_0" or "Q4_0", as bytes in row-major order; for more
    types see `edgellm.quantiser`.

    The last dimension of `values` must be a multiple of the block's length.
    """
    kind, pack = TYPES[name], PACKERS.get(name)
    if pack is None:
        raise UnsupportedError("quantise", "type", name, f"possible are {', '.join(PACKERS)}")
    if values.ndim == 0 or values.shape[-1] % kind.values:
        row = f"{name} needs a last dimension that is a multiple of {kind.values}"
        raise UnsupportedError("quantise", "shape", values.shape, row)
    rows = np.ascontiguousarray(values).reshape(-1, kind.values)
    out = np.empty(len(rows), dtype=kind.dtype)
    step = max(1, CHUNK // kind.values)
    with np.errstate(all="ignore"):
        for start in range(0, len(rows), step):
            pack(rows[start : start + step].astype(np.float32), out[start : start + step])
    return out.view(np.uint8)


def _plain(code: str) -> tuple[np.dtype[np.void], Callable[[Blocks], Floats]]:
    def expand(blocks: Blocks) -> Floats:
        return blocks["x"].astype(np.float32)

    return np.dtype([("x", code)]), expand


def _bf16(blocks: Blocks) -> Floats:
    return (blocks["x"].astype(np.uint32) << 16).view(np.float32)


def _scale(blocks: Blocks, field: str = "d") -> Floats:
    """A half-precision factor per block, (n, 1)."""
    return blocks[field].astype(np.float32)[:, None]


def _split(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """(…, w) bytes to (…, 8/bits, w) small numbers, the lowest bits first."""
    parts = 8 // bits
    out = np.empty((*packed.shape[:-1], parts, packed.shape[-1]), dtype=np.uint8)
    for i in range(parts):
        np.right_shift(packed, i * bits, out=out[..., i, :])
    if parts > 1:
        np.bitwise_and(out, (1 << bits) - 1, out=out)
    return out


def _fifth_bits(blocks: Blocks) -> NDArray[np.uint8]:
    """(n, 32): bit i of `qh`, as 16 or 0."""
    bits = np.unpackbits(blocks["qh"], axis=1, bitorder="little")
    return np.left_shift(bits, 4, out=bits)


def _q8_0(blocks: Blocks) -> Floats:
    return _scale(blocks) * blocks["qs"].astype(np.float32)


def _q4_0(blocks: Blocks) -> Floats:
    q = _split(blocks["qs"], 4).reshape(-1, 32).astype(np.float32)
    q -= 8
    return np.multiply(_scale(blocks), q, out=q)


def _q4_1(blocks: Blocks) -> Floats:
    q = _split(blocks["qs"], 4).reshape(-1, 32).astype(np.float32)
    q *= _scale(blocks)
    q += _scale(blocks, "m")
    return q


def _q5_0(blocks: Blocks) -> Floats:
    q = (_split(blocks["qs"], 4).reshape(-1, 32) | _fifth_bits(blocks)).astype(np.float32)
    q -= 16
    return np.multiply(_scale(blocks), q, out=q)


def _q5_1(blocks: Blocks) -> Floats:
    q = (_split(blocks["qs"], 4).reshape(-1, 32) | _fifth_bits(blocks)).astype(np.float32)
    q *= _scale(blocks)
    q += _scale(blocks, "m")
    return q


def _q2_k(blocks: Blocks) -> Floats:
    scales = _split(blocks["scales"], 4).astype(np.float32)  # (n, 2, 16): factors, minima
    q = _split(blocks["qs"].reshape(-1, 2, 32), 2).reshape(-1, 16, 16).astype(np.float32)
    q *= (_scale(blocks) * scales[:, 0])[..., None]
    q -= (_scale(blocks, "dmin") * scales[:, 1])[..., None]
    return q


def _q3_k(blocks: Blocks) -> Floats:
    low = _split(blocks["scales"][:, :8], 4).reshape(-1, 16)
    high = _split(blocks["scales"][:, 8:], 2).reshape(-1, 16)
    scales = (low | high << 4).astype(np.float32) - 32
    q = _split(blocks["qs"].reshape(-1, 2, 32), 2).reshape(-1, 256)
    # A set bit of hmask means that 4 isn't subtracted.
    q |= _split(blocks["hmask"], 1).reshape(-1, 256) << 2
    values = q.reshape(-1, 16, 16).astype(np.float32)
    values -= 4
    values *= (_scale(blocks) * scales)[..., None]
    return values


def _factors_and_minima(packed: NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """Eight 6-bit factors and minima out of 12 bytes; the last four of each are split in two."""
    a, b, c = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    factors = np.concatenate([a & 63, c & 15 | a >> 6 << 4], axis=1)
    minima = np.concatenate([b & 63, c >> 4 | b >> 6 << 4], axis=1)
    return factors.astype(np.float32), minima.astype(np.float32)


def _q4_k(blocks: Blocks) -> Floats:
    q = _split(blocks["qs"].reshape(-1, 4, 32), 4).reshape(-1, 8, 32)
    return _factor_and_shift(blocks, q)


def _q5_k(blocks: Blocks) -> Floats:
    q = _split(blocks["qs"].reshape(-1, 4, 32), 4).reshape(-1, 8, 32)
    q |= _split(blocks["qh"], 1) << 4
    return _factor_and_shift(blocks, q)


def _factor_and_shift(blocks: Blocks, q: NDArray[np.uint8]) -> Floats:
    factors, minima = _factors_and_minima(blocks["scales"])
    values = q.astype(np.float32)
    values *= (_scale(blocks) * factors)[..., None]
    values -= (_scale(blocks, "dmin") * minima)[..., None]
    return values


def _q6_k(blocks: Blocks) -> Floats:
    q = _split(blocks["ql"].reshape(-1, 2, 64), 4).reshape(-1, 256)
    q |= _split(blocks["qh"].reshape(-1, 2, 32), 2).reshape(-1, 256) << 4
    values = q.reshape(-1, 16, 16).astype(np.float32)
    values -= 32
    values *= (_scale(blocks) * blocks["scales"].astype(np.float32))[..., None]
    return values


IQ4 = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.float32
)
"""The 16 levels of IQ4, denser around zero."""


def _iq4_nl(blocks: Blocks) -> Floats:
    values = IQ4[_split(blocks["qs"], 4).reshape(-1, 32)]
    values *= _scale(blocks)
    return values


def _iq4_xs(blocks: Blocks) -> Floats:
    # Low nibbles lie as 0 1, 2 3, …; pairs of high bits from the lowest up.
    low = _split(blocks["scales_l"][..., None], 4).reshape(-1, 8)
    high = blocks["scales_h"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    scales = (low | high << 4).astype(np.float32) - 32
    values = IQ4[_split(blocks["qs"].reshape(-1, 8, 16), 4).reshape(-1, 8, 32)]
    values *= (_scale(blocks) * scales)[..., None]
    return values


def _tq1_0(blocks: Blocks) -> Floats:
    # Five ternary digits a byte, as a fixed-point fraction of 3**5: multiplying by 3**i modulo 256
    # brings digit i to the front, and the carry of another *3 out of the byte is the digit.
    powers = np.array([1, 3, 9, 27, 81], dtype=np.uint8)[:, None]
    fractions = [
        (blocks["qs"][:, None, :32] * powers).reshape(-1, 160),
        (blocks["qs"][:, None, 32:] * powers).reshape(-1, 80),
        (blocks["qh"][:, None] * powers[:4]).reshape(-1, 16),
    ]
    digits = np.concatenate(fractions, axis=1).astype(np.uint16) * 3 >> 8
    values = digits.astype(np.float32)
    values -= 1
    values *= _scale(blocks)
    return values


def _tq2_0(blocks: Blocks) -> Floats:
    values = _split(blocks["qs"].reshape(-1, 2, 32), 2).reshape(-1, 256).astype(np.float32)
    values -= 1
    values *= _scale(blocks)
    return values


def _type(
    name: str, id: int | None, values: int, layout: str, expand: Callable[[Blocks], Floats]
) -> TensorType:
    """`layout` lists "field:code", as in "d:<f2 qs:16u1"."""
    fields = [tuple(field.split(":")) for field in layout.split()]
    return TensorType(name, id, values, np.dtype(fields), expand)


TYPES: dict[str, TensorType] = {
    kind.name: kind
    for kind in [
        *(
            TensorType(name, id, 1, *_plain(code))
            for name, id, code in [
                ("F32", 0, "<f4"),
                ("F16", 1, "<f2"),
                ("I8", 24, "i1"),
                ("I16", 25, "<i2"),
                ("I32", 26, "<i4"),
                ("I64", 27, "<i8"),
                ("F64", 28, "<f8"),
                ("U8", None, "u1"),
                ("BOOL", None, "u1"),
            ]
        ),
        _type("BF16", 30, 1, "x:<u2", _bf16),
        _type("Q4_0", 2, 32, "d:<f2 qs:16u1", _q4_0),
        _type("Q4_1", 3, 32, "d:<f2 m:<f2 qs:16u1", _q4_1),
        _type("Q5_0", 6, 32, "d:<f2 qh:4u1 qs:16u1", _q5_0),
        _type("Q5_1", 7, 32, "d:<f2 m:<f2 qh:4u1 qs:16u1", _q5_1),
        _type("Q8_0", 8, 32, "d:<f2 qs:32i1", _q8_0),
        _type("Q2_K", 10, 256, "scales:16u1 qs:64u1 d:<f2 dmin:<f2", _q2_k),
        _type("Q3_K", 11, 256, "hmask:32u1 qs:64u1 scales:12u1 d:<f2", _q3_k),
        _type("Q4_K", 12, 256, "d:<f2 dmin:<f2 scales:12u1 qs:128u1", _q4_k),
        _type("Q5_K", 13, 256, "d:<f2 dmin:<f2 scales:12u1 qh:32u1 qs:128u1", _q5_k),
        _type("Q6_K", 14, 256, "ql:128u1 qh:64u1 scales:16i1 d:<f2", _q6_k),
        _type("IQ4_NL", 20, 32, "d:<f2 qs:16u1", _iq4_nl),
        _type("IQ4_XS", 23, 256, "d:<f2 scales_h:<u2 scales_l:4u1 qs:128u1", _iq4_xs),
        _type("TQ1_0", 34, 256, "qs:48u1 qh:4u1 d:<f2", _tq1_0),
        _type("TQ2_0", 35, 256, "qs:64u1 d:<f2", _tq2_0),
    ]
}

BY_ID: dict[int, TensorType] = {kind.id: kind for kind in TYPES.values() if kind.id is not None}

REFUSED: dict[int, str] = {
    9: "Q8_1",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    21: "IQ3_S",
    22: "IQ2_S",
    29: "IQ1_M",
    39: "MXFP4",
    40: "NVFP4",
    41: "Q1_0",
}
"""Types that GGUF defines and edgellm doesn't read."""


def _pack_plain(rows: Floats, out: Blocks) -> None:
    out["x"] = rows[:, 0]


def _pack_bf16(rows: Floats, out: Blocks) -> None:
    bits = np.ascontiguousarray(rows[:, 0]).view(np.uint32)
    # Half of what is cut off, and the last bit kept: to nearest, ties to even. NaN stays NaN.
    rounded = bits + (0x7FFF + (bits >> 16 & 1)) >> 16
    out["x"] = np.where(np.isnan(rows[:, 0]), bits >> 16 | 0x40, rounded)


def _pack_q8_0(rows: Floats, out: Blocks) -> None:
    d = np.abs(rows).max(axis=1) / np.float32(127)
    inverse = np.where(d == 0, np.float32(0), np.float32(1) / d)
    scaled = rows * inverse[:, None]
    size = np.abs(scaled)
    below = np.floor(size)
    # Halves round away from zero, as C's roundf does.
    out["qs"] = np.copysign(below + (size - below >= 0.5), scaled)
    out["d"] = d


def _pack_q4_0(rows: Floats, out: Blocks) -> None:
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)[:, 0]
    d = largest / np.float32(-8)
    inverse = np.where(d == 0, np.float32(0), np.float32(1) / d)
    q = np.trunc(rows * inverse[:, None] + np.float32(8.5)).clip(0, 15).astype(np.uint8)
    out["qs"] = q[:, :16] | q[:, 16:] << 4
    out["d"] = d


PACKERS: dict[str, Callable[[Floats, Blocks], None]] = {
    "F32": _pack_plain,
    "F16": _pack_plain,
    "BF16": _pack_bf16,
    "Q8_0": _pack_q8_0,
    "Q4_0": _pack_q4_0,
}
