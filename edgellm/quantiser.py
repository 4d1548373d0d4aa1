"""Quantising to GGUF's types as llama.cpp does it: with a search for the scales of each block.

The searches are those of ggml-quants.c (github.com/ggml-org/ggml): `make_qx_quants` for symmetric
types, `make_qkx2_quants` and `make_qkx3_quants` for those with a minimum, `make_qp_quants` for the
scales of scales. Here they go over many blocks at once, each a column: arrays are (values of a
block, blocks), so that sums over a block add whole rows.

With importances (the mean square of what each input of the matrix gets, "imatrix"), errors weigh as
much as their inputs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgellm import quant
from edgellm.errors import UnsupportedError
from edgellm.quant import TYPES, Blocks

Floats = NDArray[np.floating[Any]]

TINY = np.float32(1e-15)
"""A block whose largest value is smaller is all zeros."""
CHUNK = 1 << 15
"""Values that are worked on at a time, so that a dozen arrays of them stay in the cache."""

Weights = Floats | None
Pack = Callable[[Floats, Weights, Blocks], None]


def quantise(name: str, values: Floats, importance: Floats | None = None) -> NDArray[np.uint8]:
    """Blocks of type `name` for a matrix (rows, columns), as bytes in row-major order.

    `importance` has a weight for each column. Raises UnsupportedError for a type that can't be
    made, and for columns that its blocks don't divide.
    """
    pack = PACKERS.get(name)
    if pack is None or (importance is None and name in quant.PACKERS):
        return quant.quantise(name, values)
    kind = TYPES[name]
    rows, columns = values.shape
    if columns % kind.values:
        row = f"{name} needs a last dimension that is a multiple of {kind.values}"
        raise UnsupportedError("quantise", "shape", values.shape, row)
    out = np.empty((rows, columns // kind.values), kind.dtype)
    step = max(1, CHUNK // columns)

    def work(begin: int) -> None:
        part = np.ascontiguousarray(values[begin : begin + step], np.float32)
        weights = None if importance is None else np.tile(importance, (len(part), 1))
        with np.errstate(all="ignore"):
            pack(part, weights, out[begin : begin + step].reshape(-1))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(work, range(0, rows, step)))
    return out.reshape(-1).view(np.uint8)


def _columns(values: Floats, length: int) -> Floats:
    """Rows of values as blocks of that length, one a column."""
    return np.ascontiguousarray(values.reshape(-1, length).T)


def _dot(left: Floats, right: Floats) -> Floats:
    """For each column."""
    found: Floats = np.einsum("ij,ij->j", left, right)
    return found


def _nearest(values: Floats, low: int, high: int) -> Floats:
    """Rounded (halves to even), within the limits; in place."""
    return np.clip(np.rint(values, out=values), low, high, out=values)


def symmetric(x: Floats, most: int, weights: Weights) -> tuple[Floats, Floats]:
    """make_qx_quants: scales, and codes from -most to most-1, that approximate the blocks x."""
    square = x * x if weights is None else weights
    wx = square * x
    place = np.abs(x).argmax(axis=0)
    largest = np.take_along_axis(x, place[None], 0)[0]
    zero = np.abs(largest) < TINY
    largest = np.where(zero, np.float32(1), largest)
    codes, scale, best = np.empty_like(x), np.zeros_like(largest), np.zeros_like(largest)
    for step in (0, *range(-9, 0), *range(1, 10)):
        inverse = -(most + np.float32(0.1) * np.float32(step)) / largest
        tried = _nearest(x * inverse, -most, most - 1)
        along, length = _dot(wx, tried), _dot(square * tried, tried)
        if step:
            better = (length > 0) & (along * along > best * length)
            np.copyto(codes, tried, where=better)
        else:
            better, codes = np.ones_like(zero), tried
        found = np.where(length > 0, along / length, np.float32(0))
        scale = np.where(better, found, scale)
        best = np.where(better, found * along, best)
    codes[:, zero] = 0
    return np.where(zero, np.float32(0), scale), codes


def with_minimum(
    x: Floats, most: int, weights: Floats, first: float, step: float, steps: int
) -> tuple[Floats, Floats]:
    """make_qkx2_quants: scales and minima (what is subtracted) for codes from 0 to most."""
    low, high = np.minimum(x.min(axis=0), np.float32(0)), x.max(axis=0)
    flat = high <= low
    sum_w = weights.sum(axis=0)
    wx = weights * x
    sum_x, sum_xx = wx.sum(axis=0), _dot(wx, x)
    codes, weighted = np.empty_like(x), np.empty_like(x)

    def sums(inverse: Floats) -> tuple[Floats, Floats, Floats]:
        np.subtract(x, low, out=codes)
        np.multiply(codes, inverse, out=codes)
        _nearest(codes, 0, most)
        np.multiply(weights, codes, out=weighted)
        return weighted.sum(axis=0), _dot(weighted, codes), _dot(wx, codes)

    def error(
        scale: Floats, least: Floats, plain: Floats, squares: Floats, along: Floats
    ) -> Floats:
        """The sum of w (scale l + least - x)^2, multiplied out."""
        s, m = scale.astype(np.float64), least.astype(np.float64)
        found: Floats = s * (s * squares + 2 * (m * plain - along)) + m * (m * sum_w - 2 * sum_x)
        return found + sum_xx

    span = np.where(flat, np.float32(1), high - low)
    scale = span / np.float32(most)
    best = error(scale, low, *sums(most / span))
    for number in range(steps + 1):
        span = np.where(flat, np.float32(1), high - low)
        sum_l, sum_ll, sum_xl = sums(
            (np.float32(first) + np.float32(step) * np.float32(number) + most) / span
        )
        determinant = sum_w * sum_ll - sum_l * sum_l
        tried = (sum_w * sum_xl - sum_x * sum_l) / determinant
        least = (sum_ll * sum_x - sum_l * sum_xl) / determinant
        above = least > 0
        least = np.where(above, np.float32(0), least)
        tried = np.where(above, sum_xl / sum_ll, tried)
        found = error(tried, least, sum_l, sum_ll, sum_xl)
        better = (determinant > 0) & (found < best)
        best, scale = np.where(better, found, best), np.where(better, tried, scale)
        low = np.where(better, least, low)
    return np.where(flat, np.float32(0), scale), -low


def positive(x: Floats, most: int, weights: Floats) -> tuple[Floats, Floats]:
    """make_qp_quants: scales, and codes from 0 to most, for blocks without negative values."""
    largest = x.max(axis=0)
    zero = largest < TINY
    largest = np.where(zero, np.float32(1), largest)
    inverse = most / largest
    best = _square(x - np.rint(inverse * x) / inverse, weights)
    for step in (*range(-4, 0), *range(1, 5)):
        tried = (np.float32(0.1) * np.float32(step) + most) / largest
        error = _square(x - np.minimum(np.rint(tried * x), most) / tried, weights)
        better = error < best
        best, inverse = np.where(better, error, best), np.where(better, tried, inverse)
    codes = np.minimum(np.rint(inverse * x), most)
    along, length = _dot(weights * x, codes), _dot(weights * codes, codes)
    for _ in range(5):
        changed = False
        for i in range(len(x)):
            w, value, code = weights[i], x[i], codes[i]
            others, rest = along - w * value * code, length - w * code * code
            tried = np.minimum(np.rint(value * rest / others), most)
            new_along, new_length = others + w * value * tried, rest + w * tried * tried
            better = (others > 0) & (rest > 0) & (tried != code)
            better &= new_along * new_along * length > along * along * new_length
            codes[i] = np.where(better, tried, code)
            along, length = np.where(better, new_along, along), np.where(better, new_length, length)
            changed = changed or bool(better.any())
        if not changed:
            break
    codes[:, zero] = 0
    scale = np.where(length > 0, along / length, np.float32(0))
    return np.where(zero, np.float32(0), scale), codes


def _square(difference: Floats, weights: Floats) -> Floats:
    return _dot(weights * difference, difference)


def _pack_q4_0(values: Floats, importance: Weights, out: Blocks) -> None:
    assert importance is not None
    x = _columns(values, 32)
    d, codes = symmetric(x, 8, _columns(importance, 32) * _spread(values, x))
    q = (codes.T + 8).astype(np.uint8)
    out["qs"] = q[:, :16] | q[:, 16:] << 4
    out["d"] = d


def _pack_q5_0(values: Floats, importance: Weights, out: Blocks) -> None:
    x = values.reshape(-1, 32)
    if importance is None:
        largest = np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1)[:, 0]
        d = largest / np.float32(-16)
        inverse = np.where(d == 0, np.float32(0), np.float32(1) / d)
        q = np.trunc(x * inverse[:, None] + np.float32(16.5)).clip(0, 31).astype(np.uint8)
    else:
        columns = _columns(values, 32)
        weights = _columns(importance, 32) * _spread(values, columns)
        d, codes = symmetric(columns, 16, weights)
        q = (codes.T + 16).astype(np.uint8)
    out["d"] = d
    _place_fifth_bits(q, out)


def _plainwith_minimum(
    values: Floats, importance: Weights, out: Blocks, most: int
) -> NDArray[np.uint8]:
    """Fills in the scales of Q4_1 or Q5_1; returns the codes, (blocks, 32)."""
    if importance is None:
        x = values.reshape(-1, 32)
        low, high = x.min(axis=1), x.max(axis=1)
        d = (high - low) / np.float32(most)
        inverse = np.where(d == 0, np.float32(0), np.float32(1) / d)
        tried = (x - low[:, None]) * inverse[:, None] + np.float32(0.5)
    else:
        columns = _columns(values, 32)
        weights = _spread(values, columns) * _columns(importance, 32)
        d, shift = with_minimum(columns, most, weights, -0.9, 0.05, 36)
        low, unit = -shift, np.where(d == 0, np.float32(1), d)
        tried = np.rint((columns + shift) / unit).T
    out["d"], out["m"] = d, low
    codes: NDArray[np.uint8] = tried.clip(0, most).astype(np.uint8)
    return codes


def _pack_q4_1(values: Floats, importance: Weights, out: Blocks) -> None:
    q = _plainwith_minimum(values, importance, out, 15)
    out["qs"] = q[:, :16] | q[:, 16:] << 4


def _pack_q5_1(values: Floats, importance: Weights, out: Blocks) -> None:
    _place_fifth_bits(_plainwith_minimum(values, importance, out, 31), out)


def _spread(values: Floats, columns: Floats) -> Floats:
    """What importances of the types of 32 values are multiplied by: larger values count more."""
    of_row = np.repeat((values * values).mean(axis=1), values.shape[1] // 32)
    found: Floats = np.sqrt(of_row + columns * columns)
    return found


def _place_fifth_bits(q: NDArray[np.uint8], out: Blocks) -> None:
    out["qs"] = q[:, :16] & 15 | (q[:, 16:] & 15) << 4
    out["qh"] = np.packbits(q >> 4, axis=1, bitorder="little")


def _blocks_with_minima(
    values: Floats, importance: Weights, out: Blocks, most: int, search: tuple[float, float, int]
) -> NDArray[np.uint8]:
    """Fills in the scales of a K type with minima; returns the codes, (blocks, 8, 32)."""
    x = _columns(values, 32)
    if importance is None:
        square = (x * x).sum(axis=0)
        weights = np.sqrt(square / np.float32(32)) + np.abs(x)
        scales, minima = with_minimum(x, most, weights, *search)
        scales, minima = _columns(scales, 8), _columns(minima, 8)
        d, dmin = scales.max(axis=0) / np.float32(63), minima.max(axis=0) / np.float32(63)
        factors, shifts = (
            np.rint(np.where(unit > 0, each * (np.float32(1) / unit), np.float32(0)))
            for each, unit in ((scales, d), (minima, dmin))
        )
    else:
        spread = np.repeat(2 * (values * values).reshape(-1, 256).mean(axis=1), 8)
        weights = _columns(importance, 32) * np.sqrt(spread + x * x)
        scales, minima = with_minimum(x, most, weights, -0.9, 0.05, 36)
        total = _columns(weights.sum(axis=0), 8)
        d, factors = positive(_columns(scales, 8), 63, total)
        dmin, shifts = positive(_columns(minima, 8), 63, total)
    out["d"], out["dmin"] = d, dmin
    s, m = (np.minimum(each, 63).astype(np.uint8).T for each in (factors, shifts))  # (blocks, 8)
    out["scales"][:, :4] = s[:, :4] | s[:, 4:] >> 4 << 6
    out["scales"][:, 4:8] = m[:, :4] | m[:, 4:] >> 4 << 6
    out["scales"][:, 8:] = s[:, 4:] & 15 | (m[:, 4:] & 15) << 4
    # Codes for the scales as they are now, rounded.
    unit = (out["d"].astype(np.float32)[:, None] * s).reshape(-1)
    shift = (out["dmin"].astype(np.float32)[:, None] * m).reshape(-1)
    x += shift
    x /= np.where(unit == 0, np.float32(1), unit)
    x[:, unit == 0] = 0
    return _nearest(x, 0, most).astype(np.uint8).T.reshape(-1, 8, 32)


def _pack_q4_k(values: Floats, importance: Weights, out: Blocks) -> None:
    q = _blocks_with_minima(values, importance, out, 15, (-1.0, 0.1, 20)).reshape(-1, 4, 2, 32)
    out["qs"] = (q[:, :, 0] | q[:, :, 1] << 4).reshape(-1, 128)


def _pack_q5_k(values: Floats, importance: Weights, out: Blocks) -> None:
    q = _blocks_with_minima(values, importance, out, 31, (-0.5, 0.1, 15))
    out["qh"] = np.bitwise_or.reduce((q >> 4) << np.arange(8, dtype=np.uint8)[:, None], axis=1)
    low = (q & 15).reshape(-1, 4, 2, 32)
    out["qs"] = (low[:, :, 0] | low[:, :, 1] << 4).reshape(-1, 128)


def _pack_q6_k(values: Floats, importance: Weights, out: Blocks) -> None:
    x = _columns(values, 16)
    weights = None if importance is None else _columns(importance, 16)
    scales, codes = symmetric(x, 32, weights)
    of_block = scales.reshape(-1, 16)
    place = np.abs(of_block).argmax(axis=1)[:, None]
    largest = np.take_along_axis(of_block, place, 1)[:, 0]
    zero = np.abs(largest) < TINY
    inverse = np.float32(-128) / np.where(zero, np.float32(1), largest)
    out["d"] = np.where(zero, np.float32(0), np.float32(1) / inverse)
    rounded = np.minimum(np.rint(inverse[:, None] * of_block), 127)
    rounded[zero] = 0
    out["scales"] = rounded
    unit = (out["d"].astype(np.float32)[:, None] * rounded).reshape(-1)
    tried = _nearest(x / np.where(unit == 0, np.float32(1), unit), -32, 31)
    q = np.where(unit == 0, codes, tried) + 32
    q[:, np.repeat(zero, 16)] = 32
    whole = q.astype(np.uint8).T.reshape(-1, 256)
    low = (whole & 15).reshape(-1, 2, 2, 64)
    out["ql"] = (low[:, :, 0] | low[:, :, 1] << 4).reshape(-1, 128)
    high = (whole >> 4).reshape(-1, 2, 4, 32) << np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    out["qh"] = np.bitwise_or.reduce(high, axis=2).reshape(-1, 64)


def _pack_q8_0(values: Floats, importance: Weights, out: Blocks) -> None:
    quant.PACKERS["Q8_0"](values.reshape(-1, 32), out)  # llama.cpp's has no use for importances


PACKERS: dict[str, Pack] = {
    "Q8_0": _pack_q8_0,
    "Q4_0": _pack_q4_0,
    "Q4_1": _pack_q4_1,
    "Q5_0": _pack_q5_0,
    "Q5_1": _pack_q5_1,
    "Q4_K": _pack_q4_k,
    "Q5_K": _pack_q5_k,
    "Q6_K": _pack_q6_k,
}
