"""The kernels of training against NumPy, at every feature level that this machine has."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_library import build, call, targets
from numpy.typing import NDArray

from edgellm import packing, quant
from edgellm.capture import ACTIVATIONS
from edgellm.packing import BLOCKS
from edgellm.tensor import MappedTensor

Floats = NDArray[np.float32]
FORMATS = tuple(BLOCKS)


def packed(format: str, rows: int, columns: int, seed: int) -> tuple[NDArray[np.uint8], Floats]:
    """A random matrix in a packed format, and its values."""
    rng = np.random.default_rng(seed)
    kind = quant.TYPES[format]
    raw = rng.integers(0, 256, kind.nbytes((rows, columns)), dtype=np.uint8).view(kind.dtype)
    for field in kind.dtype.names or ():
        if kind.dtype[field].base == np.float16 or field in ("d", "dmin", "m"):
            raw[field] = rng.uniform(-0.1, 0.1, raw[field].shape).astype(kind.dtype[field].base)
    if format in ("F32", "F16", "BF16"):
        values = rng.standard_normal((rows, columns)).astype(np.float32)
        if format == "BF16":
            values = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
            raw = (values.view(np.uint32) >> 16).astype(np.uint16).reshape(-1).view(kind.dtype)
        else:
            raw = quant.quantise(format, values).view(kind.dtype)
    tensor = MappedTensor("w", (rows, columns), format, raw.view(np.uint8).reshape(-1).data)
    out = np.zeros(packing.packed_bytes(format, rows, columns), np.uint8)
    packing.pack_into(tensor, out, format)
    return out, packing.unpack(out, format, rows, columns)


def close(found: Floats, wanted: Floats, depth: int) -> None:
    scale = float(np.abs(wanted).max()) or 1.0
    assert np.abs(found - wanted).max() <= 3e-7 * depth**0.5 * 4 * scale + 1e-6


@pytest.mark.parametrize("target", targets())
@pytest.mark.parametrize("format", FORMATS)
def test_products_with_packed_weights(target: str, format: str) -> None:
    built = build(target, "training/products")
    wide = quant.TYPES[format].values
    for rows, columns, count, rank in ((40, 2 * wide, 13, 0), (35, 768, 5, 3), (8, 256, 193, 2)):
        weights, values = packed(format, rows, columns, rows)
        rng = np.random.default_rng(columns)
        x = rng.standard_normal((count, columns)).astype(np.float32)
        low = rng.standard_normal((count, max(rank, 1))).astype(np.float32)
        up = rng.standard_normal((rows, max(rank, 1))).astype(np.float32)
        y = np.full((count, rows), np.nan, np.float32)
        kind = FORMATS.index(format)
        call(built, "outputs", [y, x, weights, low, up], (count, columns, rows, kind, rank))
        close(y, x @ values.T + (low @ up.T if rank else 0), columns)
        back = np.full((count, columns), np.nan, np.float32)
        given = rng.standard_normal((count, rows)).astype(np.float32)
        call(built, "inputs", [back, given, weights], (count, columns, rows, kind))
        close(back, given @ values, rows)


@given(
    rows=st.integers(1, 400), depth=st.integers(1, 600), columns=st.integers(1, 300),
    turned=st.tuples(st.booleans(), st.booleans()), seed=st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=20)
def test_products_of_any_shape(
    rows: int, depth: int, columns: int, turned: tuple[bool, bool], seed: int
) -> None:
    built = build(targets()[-1], "training/products")
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((rows, depth)).astype(np.float32)
    b = rng.standard_normal((depth, columns)).astype(np.float32)
    stored = [np.ascontiguousarray(m.T if t else m) for m, t in zip((a, b), turned, strict=True)]
    c = np.full((rows, columns), np.nan, np.float32)
    call(built, "product", [c, *stored], (rows, depth, columns, *map(int, turned)), seed=seed)
    close(c, a @ b, depth)


def reference(
    q: Floats, k: Floats, v: Floats, dout: Floats, first: NDArray[np.int32], window: int,
    scale: float, cap: float, slopes: Floats | None,
) -> list[NDArray[np.float64]]:  # fmt: skip
    """out, dq, dk, dv in float64, straight from the definition."""
    batch, length, heads, _ = q.shape
    keys = k.shape[2]
    out, dq, dk, dv = (np.zeros(x.shape) for x in (q, q, q, q))
    place = np.arange(length)
    behind = place[:, None] - place[None, :]
    for b in range(batch):
        for h in range(heads):
            one, other, third = (
                x[b, :, g].astype(float)
                for x, g in ((q, h), (k, h // (heads // keys)), (v, h // (heads // keys)))
            )
            raw = one @ other.T * scale
            bent = np.tanh(raw / cap) if cap else raw
            scores = bent * cap if cap else raw
            if slopes is not None:
                scores = scores - slopes[h] * scale * behind
            seen = (behind >= 0) & (place[None, :] >= first[b][:, None])
            if window:
                seen &= behind < window
            scores = np.where(seen, scores, -np.inf)
            shares = np.exp(scores - scores.max(1, keepdims=True))
            shares /= shares.sum(1, keepdims=True)
            out[b, :, h] = shares @ third
            given = dout[b, :, h].astype(float)
            d = given @ third.T
            d = shares * (d - (d * shares).sum(1, keepdims=True))
            if cap:
                d = d * (1 - bent**2)
            dq[b, :, h], dk[b, :, h] = d @ other * scale, d.T @ one * scale
            dv[b, :, h] = shares.T @ given
    return [out, dq, dk, dv]


@pytest.mark.parametrize("target", targets())
@pytest.mark.parametrize(
    ("window", "cap", "alibi"), [(0, 0.0, False), (9, 2.0, False), (0, 0.0, True)]
)
def test_attention(target: str, window: int, cap: float, alibi: bool) -> None:
    built = build(target, "training/attention")
    batch, length, heads, keys, width = 2, 107, 4, 2, 20
    rng = np.random.default_rng(1)

    def draw(heads: int) -> Floats:
        return rng.standard_normal((batch, length, heads, width)).astype(np.float32)

    q, k, v, dout = draw(heads), draw(keys), draw(keys), draw(heads)
    first = np.zeros((batch, length), np.int32)
    first[1, 40:] = 40
    first[1, 100:] = np.arange(100, length)
    slopes = np.array([0.5, 0.25, 0.1, 0.05], np.float32) if alibi else None
    numbers, reals = (batch, length, heads, keys, width, window), (0.3, cap)
    out, dq, dk, dv = (np.full(q.shape, np.nan, np.float32) for _ in range(4))
    call(built, "attention", [out, q, k, v, first, slopes], numbers, reals)
    call(built, "attention_back", [dq, dk, dv, q, k, v, dout, first, slopes], numbers, reals)
    wanted = reference(q, k, v, dout, first, window, 0.3, cap, slopes)
    for found, exact in zip((out, dq, dk, dv), wanted, strict=True):
        np.testing.assert_allclose(found, exact, atol=1e-5)


def activated(name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    match name:
        case "silu":
            return x / (1 + np.exp(-x))
        case "gelu":
            return x / 2 * (1 + np.vectorize(math.erf)(x / 2**0.5))
        case "gelu_tanh":
            return x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
    return np.maximum(x, 0) ** 2


@pytest.mark.parametrize("target", targets())
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gated(target: str, name: str) -> None:
    built = build(target, "training/gated")
    rng = np.random.default_rng(3)
    for count in (1, 37, 4099):
        gate, up, given = (rng.standard_normal(count).astype(np.float32) for _ in range(3))
        gate *= 4
        gate[: count // 100] *= 30
        numbers = (count, ACTIVATIONS.index(name))
        out, by_gate, by_up = (np.full(count, np.nan, np.float32) for _ in range(3))
        call(built, "gated", [out, gate, up], numbers)
        call(built, "gated_back", [by_gate, by_up, gate, up, given], numbers)
        x = gate.astype(float)
        y = activated(name, x)
        slope = (activated(name, x + 1e-5) - activated(name, x - 1e-5)) / 2e-5
        np.testing.assert_allclose(out, y * up, rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(by_up, y * given, rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(by_gate, slope * up * given, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", targets())
def test_entropy(target: str) -> None:
    built = build(target, "training/entropy")
    rng = np.random.default_rng(2)
    scores = (rng.standard_normal((5, 99)) * 9).astype(np.float32)
    wanted = np.array([0, 98, -1, 7, 99], np.int32)
    gradient, result = np.full((5, 99), np.nan, np.float32), np.full((5, 2), np.nan, np.float32)
    call(built, "entropy", [gradient, result, scores, wanted], (5, 99))
    shares = np.exp(scores.astype(float) - scores.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    for row, token in enumerate(wanted):
        inside = 0 <= token < 99
        loss = -np.log(shares[row, token]) if inside else 0.0
        exact = shares[row] - (np.arange(99) == token) if inside else np.zeros(99)
        assert np.log(result[row, 0]) - result[row, 1] == pytest.approx(loss, rel=1e-5, abs=1e-5)
        np.testing.assert_allclose(gradient[row], exact, atol=1e-6)


def test_lookup() -> None:
    built = build(targets()[-1], "training/lookup")
    rng = np.random.default_rng(3)
    table = rng.standard_normal((11, 70)).astype(np.float32)
    which = np.array([3, 3, 10, -1, 11, 0], np.int32)
    out, given = np.full((6, 70), np.nan, np.float32), rng.standard_normal((6, 70))
    given = given.astype(np.float32)
    call(built, "lookup", [out, table, which], (6, 70, 11))
    inside = (which >= 0) & (which < 11)
    np.testing.assert_array_equal(out[inside], table[which[inside]])
    np.testing.assert_array_equal(out[~inside], 0)
    gradient, wanted = np.full((11, 70), np.nan, np.float32), np.zeros((11, 70), np.float32)
    call(built, "lookup_back", [gradient, given, which], (6, 70, 11))
    np.add.at(wanted, which[inside], given[inside])
    np.testing.assert_allclose(gradient, wanted, atol=1e-6)
