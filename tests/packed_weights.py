"""Packed weights as bytes of random or extreme content, and what they mean, by plain arithmetic."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FORMATS = (
    "F32", "F16", "BF16", "Q4_0", "Q5_0", "Q8_0", "Q4_1", "Q5_1", "Q4_K", "Q5_K", "Q6_K", "Q2_K",
    "IQ4_NL", "IQ4_XS",
)  # fmt: skip
FLOATS = FORMATS[:3]

# A block of each integer format: its inputs and its fields (name, type, shape).
NIBBLES = ("nibbles", "u1", (4, 8, 4))
FIFTH = ("fifth", "u1", (8, 4))
SCALES = [("d", "<f2", (8,)), ("m", "<f2", (8,)), ("sc", "u1", (8, 8)), ("sm", "u1", (8, 8))]
LAYOUTS = {
    "Q4_0": (32, [("d", "<f2", (8,)), NIBBLES]),
    "Q4_1": (32, [("d", "<f2", (8,)), ("m", "<f2", (8,)), NIBBLES]),
    "Q5_0": (32, [("d", "<f2", (8,)), NIBBLES, FIFTH]),
    "Q5_1": (32, [("d", "<f2", (8,)), ("m", "<f2", (8,)), NIBBLES, FIFTH]),
    "Q8_0": (32, [("d", "<f2", (8,)), ("q", "i1", (8, 8, 4))]),
    "Q4_K": (256, [*SCALES, ("part", [NIBBLES], (8,))]),
    "Q5_K": (256, [*SCALES, ("part", [NIBBLES, FIFTH], (8,))]),
    "Q6_K": (
        256,
        [
            ("d", "<f2", (8,)),
            ("sc", "i1", (16, 8)),
            ("part", [NIBBLES, ("upper", "u1", (2, 8, 4))], (8,)),
        ],
    ),
    "Q2_K": (
        256,
        [*SCALES[:2], ("factors", "u1", (4, 8, 4)), ("part", [("pairs", "u1", (2, 8, 4))], (8,))],
    ),
    "IQ4_NL": (32, [("d", "<f2", (8,)), NIBBLES]),
    "IQ4_XS": (256, [("d", "<f2", (8,)), ("sc", "i1", (8, 8)), ("part", [NIBBLES], (8,))]),
}
LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
FLOAT_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def block_inputs(name: str) -> int:
    """How many inputs K has to be a multiple of."""
    return 1 if name in FLOATS else LAYOUTS[name][0]


def random_weights(
    name: str, rows: int, columns: int, rng: np.random.Generator
) -> NDArray[np.void | np.float32]:
    """Groups of packed weights with every bit random but the scales, which are small numbers."""
    groups = -(-rows // 8)
    if name in FLOATS:
        values = rng.standard_normal((groups, columns, 8)).astype("<f4")
        if name == "BF16":
            return np.asarray(values.view("<u4") >> 16, "<u2")
        return values.astype(FLOAT_TYPES[name])
    inputs, fields = LAYOUTS[name]
    dtype = np.dtype(fields)
    raw = rng.integers(0, 256, (groups, columns // inputs * dtype.itemsize), np.uint8)
    packed = raw.view(dtype)
    for field in ("d", "m"):
        if field in packed.dtype.names:
            shape = packed[field].shape
            packed[field] = rng.uniform(-0.01, 0.01, shape).astype("<f2")
    return packed


def nibbles(low_high: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(..., 4, 8 rows, 4) bytes to codes (..., 8 rows, 32 inputs)."""
    both = np.stack([low_high & 15, low_high >> 4], axis=-4)  # (..., 2, 4, 8, 4)
    return inputs_last(both.reshape(*both.shape[:-4], 8, 8, 4))


def inputs_last(codes: NDArray[np.integer]) -> NDArray[np.int64]:
    """(..., 8 v, 8 rows, 4 j) to (..., 8 rows, 32 inputs 4v + j)."""
    moved = np.moveaxis(codes, -3, -2)
    return moved.reshape(*moved.shape[:-2], 32).astype(np.int64)


def fifth_bits(bits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(..., 8 rows, 4 j) to 16 or 0 for each of (..., 8 rows, 32 inputs)."""
    each = (bits[..., None, :, :] >> np.arange(8)[:, None, None]) & 1
    return inputs_last(each) * 16


def meaning(name: str, packed: NDArray[np.void | np.float32], rows: int) -> NDArray[np.float64]:
    """The weights (rows, columns) that the packed bytes stand for."""
    if name in FLOATS:
        if name == "BF16":
            packed = (packed.astype("<u4") << 16).view("<f4")
        values = np.moveaxis(packed, 2, 1).astype(np.float64)
        return values.reshape(-1, values.shape[2])[:rows]
    d = packed["d"].astype(np.float64)[..., None]  # (groups, blocks, 8 rows, 1)
    if name == "Q8_0":
        values = d * inputs_last(packed["q"])
    elif name == "IQ4_NL":
        values = d * LEVELS[nibbles(packed["nibbles"])]
    elif name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1"):
        codes = nibbles(packed["nibbles"])
        if "fifth" in packed.dtype.names:
            codes += fifth_bits(packed["fifth"])
        if "m" in packed.dtype.names:
            values = d * codes + packed["m"].astype(np.float64)[..., None]
        else:
            values = d * (codes - (16 if name == "Q5_0" else 8))
    else:
        values = superblock(name, packed, d)
    # (groups, blocks, 8 rows, inputs) to (groups * 8, blocks * inputs)
    moved = np.moveaxis(values, 2, 1)
    return moved.reshape(moved.shape[0] * 8, -1)[:rows]


def superblock(name: str, packed: NDArray[np.void], d: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values (groups, blocks, 8 rows, 256 inputs) of a K format."""
    part = packed["part"]
    if name == "Q2_K":
        # (groups, blocks, 4, 8 rows, 4) to (groups, blocks, 16, 8 rows)
        both = np.moveaxis(packed["factors"], 4, 3).reshape(*packed.shape, 16, 8)
        m = packed["m"].astype(np.float64)[..., None, :, None]
        scaled = d[..., None, :, :] * of_halves(both & 15) * pairs(part["pairs"])
        return parts_last(scaled - m * of_halves(both >> 4))
    codes = nibbles(part["nibbles"])  # (groups, blocks, 8 parts, 8 rows, 32)
    if name == "Q6_K":
        codes += pairs(part["upper"]) * 16
        values = d[..., None, :, :] * of_halves(packed["sc"]) * (codes - 32)
    elif name == "IQ4_XS":
        scale = packed["sc"].astype(np.float64)[..., None]
        values = d[..., None, :, :] * scale * LEVELS[codes]
    else:
        if name == "Q5_K":
            codes += fifth_bits(part["fifth"])
        m = packed["m"].astype(np.float64)[..., None, :, None]
        scale, minimum = (packed[field].astype(np.float64)[..., None] for field in ("sc", "sm"))
        values = d[..., None, :, :] * scale * codes - m * minimum
    return parts_last(values)


def pairs(bits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Two bits for each of (groups, blocks, 8 parts, 8 rows, 32 inputs), from (..., 8 parts,
    2 halves, 8 rows, 4) bytes."""
    each = (bits[..., None, :, :] >> (2 * np.arange(4))[:, None, None]) & 3
    return inputs_last(each.reshape(*each.shape[:3], 8, 8, 4))


def of_halves(factors: NDArray[np.integer]) -> NDArray[np.float64]:
    """(groups, blocks, 16, 8 rows) to (groups, blocks, 8 parts, 8 rows, 32 inputs)."""
    halves = factors.astype(np.float64).reshape(*factors.shape[:2], 8, 2, 8)
    return np.repeat(np.moveaxis(halves, 3, 4), 16, axis=4)


def parts_last(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(groups, blocks, 8 parts, 8 rows, 32) to (groups, blocks, 8 rows, 256 inputs)."""
    moved = np.moveaxis(values, 2, 3)
    return moved.reshape(*moved.shape[:3], 256)
