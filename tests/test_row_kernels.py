"""Norms, quantisation, gates, rotations and convolutions of rows, against float64."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from pathlib import Path

import kernel_process
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_library import build, call, compile_object, targets
from numpy.typing import NDArray

Array = NDArray[np.float32]
Exact = NDArray[np.float64]

on_each_target = pytest.mark.parametrize("target", targets())
quick = settings(max_examples=20, deadline=None)

erf = np.vectorize(math.erf)


def normal(*shape: int, seed: int = 0, size: float = 1.0) -> Array:
    return np.random.default_rng(seed).normal(0, size, shape).astype(np.float32)


def quantised(rows: int, width: int) -> NDArray[np.uint8]:
    return np.full((rows, (width + width // 32 * 12 + 63) // 64 * 64), 0xEE, np.uint8)


def check_quantised(packed: NDArray[np.uint8], x: Array) -> None:
    """Codes within half a step of x (rows, K), and scales and sums that belong to them."""
    rows, width = x.shape
    ends = np.cumsum([0, width, width // 8, width // 8, width // 8])
    names, kinds = ("code", "scale", "sum", "half"), ("i1", "f4", "i4", "i4")
    fields = zip(names, kinds, ends[:-1], ends[1:], strict=True)
    found = {
        name: np.ascontiguousarray(packed[:, begin:end]).view(kind)
        for name, kind, begin, end in fields
    }
    blocks, codes = x.reshape(rows, -1, 32), found["code"].reshape(rows, -1, 32).astype(np.int32)
    peak = np.abs(blocks).max(axis=2)
    np.testing.assert_allclose(found["scale"], np.where(peak > 1e-30, peak / 127, 0), rtol=1e-6)
    error = np.abs(codes * found["scale"][:, :, None].astype(np.float64) - blocks)
    assert (error <= 0.5001 * found["scale"][:, :, None] + 1e-30).all()
    np.testing.assert_array_equal(found["sum"], codes.sum(axis=2))
    np.testing.assert_array_equal(found["half"], codes[:, :, :16].sum(axis=2))


# --- quantise and norm --------------------------------------------------------------------------


@on_each_target
@quick
@given(
    rows=st.integers(1, 5),
    blocks=st.sampled_from([1, 2, 3, 18, 64]),
    exponent=st.integers(-44, 37),
    seed=st.integers(0, 99),
)
def test_quantise(target: str, rows: int, blocks: int, exponent: int, seed: int) -> None:
    x = normal(rows, blocks * 32, seed=seed)
    x[0, :32] = 0
    x *= np.float32(10.0**exponent)
    out = quantised(rows, blocks * 32)
    call(build(target, "norm"), "quantise", [out, x], [blocks * 32], rows=rows)
    check_quantised(out, x)


@on_each_target
@quick
@given(
    rows=st.integers(1, 4),
    groups=st.integers(1, 3),
    width=st.sampled_from([1, 8, 20, 32, 64, 100, 576, 2048]),
    layer=st.booleans(),
    bias=st.booleans(),
    mean=st.sampled_from([0.0, 3.0]),
    size=st.sampled_from([1e-4, 1.0, 1e4]),
)
def test_norm(
    target: str,
    rows: int,
    groups: int,
    width: int,
    layer: bool,
    bias: bool,
    mean: float,
    size: float,
) -> None:
    x = (normal(rows, groups, width) + np.float32(mean)) * np.float32(size)
    weight, shift = normal(width, seed=1), normal(width, seed=2) if bias else None
    packed = quantised(rows, groups * width) if groups * width % 32 == 0 else None
    out = np.zeros_like(x)
    numbers = [groups, width, int(layer)]
    call(build(target, "norm"), "norm", [out, packed, x, weight, shift], numbers, [1e-5], rows=rows)

    exact = x.astype(np.float64)
    if layer:
        exact = exact - exact.mean(axis=-1, keepdims=True)
    exact = exact / np.sqrt((exact**2).mean(axis=-1, keepdims=True) + 1e-5) * weight
    if shift is not None:
        exact = exact + shift
    np.testing.assert_allclose(out, exact, rtol=2e-5, atol=2e-5)
    if packed is not None:
        check_quantised(packed, out.reshape(rows, -1))
    call(build(target, "norm"), "norm", [x, None, x, weight, shift], numbers, [1e-5], rows=rows)
    np.testing.assert_array_equal(x, out)  # in place


def test_norm_on_arm() -> None:
    x, weight = normal(3, 1, 608), normal(608, seed=1)
    out, packed = np.zeros_like(x), quantised(3, 608)
    buffers, numbers = [out, packed, x, weight], [1, 608, 0]
    kernel_process.call("cortex-a53", "norm", "norm", buffers, numbers, [1e-5], rows=3)
    exact = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=-1, keepdims=True) + 1e-5) * weight
    np.testing.assert_allclose(out, exact, rtol=2e-5, atol=2e-5)
    check_quantised(packed, out[:, 0])


@on_each_target
def test_groups_with_weights_of_their_own(target: str) -> None:
    x, weight, bias = normal(2, 3, 20), normal(60, seed=1), normal(60, seed=2)
    out, one = np.zeros_like(x), np.zeros((2, 20), np.float32)
    library = build(target, "norm")
    call(library, "norm", [out, None, x, weight, bias], [3, 20, 1, 1], [1e-5], rows=2)
    for group in range(3):
        alone = [np.ascontiguousarray(part) for part in (x[:, group], weight, bias)]
        alone[1:] = (part[group * 20 : group * 20 + 20] for part in alone[1:])
        call(library, "norm", [one, None, *alone], [1, 20, 1, 0], [1e-5], rows=2)
        np.testing.assert_array_equal(out[:, group], one)


# --- gate ---------------------------------------------------------------------------------------

ACTIVATIONS: dict[int, Callable[[Exact], Exact]] = {
    0: lambda x: x / (1 + np.exp(-x)),
    1: lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
    2: lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    3: lambda x: np.maximum(x, 0) ** 2,
}


@on_each_target
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("width", [1, 17, 64, 1536, 2048, 2056, 5632])
@pytest.mark.parametrize("gated", [True, False])
def test_gate(target: str, activation: int, width: int, gated: bool) -> None:
    rows = 3
    gate = np.linspace(-30, 30, rows * width, dtype=np.float32).reshape(rows, width)
    gate[0] /= 100
    up = normal(rows, width) if gated else None
    out, packed = np.zeros_like(gate), quantised(rows, width) if width % 32 == 0 else None
    numbers = [width, activation]
    call(build(target, "gate"), "gate", [out, packed, gate, up], numbers, rows=rows)
    exact = ACTIVATIONS[activation](gate.astype(np.float64)) * (1 if up is None else up)
    np.testing.assert_allclose(out, exact, rtol=2e-6, atol=3e-6)
    if packed is not None:
        check_quantised(packed, out)


@on_each_target
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gates_of_huge_values_stay_numbers(target: str, activation: int) -> None:
    gate = np.array([[-1e18, -1e4, -200, -89, 89, 200, 1e4, 1e18]], np.float32)
    out = np.zeros_like(gate)
    call(build(target, "gate"), "gate", [out, None, gate, None], [8, activation])
    exact = np.maximum(gate, 0) ** (2 if activation == 3 else 1)
    np.testing.assert_allclose(out, exact, rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gate_on_arm(activation: int) -> None:
    gate, up = normal(2, 2080, size=4), normal(2, 2080, seed=1)
    out, packed = np.zeros_like(gate), quantised(2, 2080)
    buffers, numbers = [out, packed, gate, up], [2080, activation]
    kernel_process.call("cortex-a53", "gate", "gate", buffers, numbers, rows=2)
    exact = ACTIVATIONS[activation](gate.astype(np.float64)) * up
    np.testing.assert_allclose(out, exact, rtol=2e-6, atol=3e-6)
    check_quantised(packed, out)


# --- rotate -------------------------------------------------------------------------------------


@on_each_target
@quick
@given(
    heads=st.integers(1, 4),
    width=st.sampled_from([8, 20, 64, 96]),
    turned=st.sampled_from([1.0, 0.5, 0.25]),
    pairs=st.booleans(),
    positions=st.lists(st.integers(0, 63), min_size=1, max_size=5),
)
def test_rotate(
    target: str, heads: int, width: int, turned: float, pairs: bool, positions: list[int]
) -> None:
    dim = int(width * turned) // 2 * 2
    angles = np.outer(np.arange(64), 10.0 ** -np.arange(dim // 2))
    table = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    x = normal(len(positions), heads, width)
    out = np.zeros_like(x)
    call(
        build(target, "rotate"),
        "rotate",
        [out, x, table],
        [heads, width, dim, int(pairs)],
        rows=len(positions),
        positions=positions,
        context=64,
    )
    expected = x.astype(np.float64)
    first = slice(0, dim, 2) if pairs else slice(0, dim // 2)
    second = slice(1, dim, 2) if pairs else slice(dim // 2, dim)
    for row, position in enumerate(positions):
        cosines, sines = table[position].astype(np.float64)
        a, b = x[row, :, first], x[row, :, second]
        expected[row, :, first] = a * cosines - b * sines
        expected[row, :, second] = a * sines + b * cosines
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


@on_each_target
@pytest.mark.parametrize("pairs", [0, 1])
def test_rotate_in_place(target: str, pairs: int) -> None:
    table, x = normal(16, 2, 32), normal(3, 2, 70)
    out = np.zeros_like(x)
    library, numbers = build(target, "rotate"), [2, 70, 64, pairs]
    call(library, "rotate", [out, x, table], numbers, rows=3)
    call(library, "rotate", [x, x, table], numbers, rows=3)
    np.testing.assert_array_equal(x, out)


# --- convolve -----------------------------------------------------------------------------------


@on_each_target
@pytest.mark.parametrize("width", [1, 20, 1024])
@pytest.mark.parametrize("taps", [1, 3, 4])
def test_convolve(target: str, width: int, taps: int) -> None:
    context, slots = 32, 2
    state = np.full((slots, context, width), np.nan, np.float32)
    x, kernel = normal(slots, 20, width), normal(width, taps, seed=1)
    library = build(target, "convolve")
    past = np.pad(x.astype(np.float64), ((0, 0), (taps - 1, 0), (0, 0)))
    for begin, end in ((0, 1), (1, 15), (15, 20)):  # both slots in one step, in pieces
        rows = np.ascontiguousarray(x[:, begin:end].reshape(-1, width))
        place = {
            "rows": len(rows),
            "positions": list(range(begin, end)) * 2,
            "slots": [0] * (end - begin) + [1] * (end - begin),
            "context": context,
            "slot_count": slots,
        }
        out = np.zeros_like(rows)
        call(library, "conv_store", [state, rows], [width], **place)
        call(library, "convolve", [out, state, kernel], [width, taps], **place)
        windows = np.stack([past[:, begin + t : end + t] for t in range(taps)], axis=-1)
        expected = (windows * kernel).sum(axis=-1).reshape(-1, width)
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


# --- the functions they share -------------------------------------------------------------------

FUNCTIONS = """
#include "vector.h"
#define EACH(name, f) \\
    void name(float *out, const float *x, int64_t count) { \\
        for (int64_t i = 0; i < count; i += LANES) store(out + i, f(load(x + i))); \\
    }
EACH(exp16, exponential)
EACH(tanh16, hyperbolic_tangent)
EACH(erf16, one_plus_erf)
INLINE Floats through_half(Floats x) { return from_halves(to_halves(x)); }
EACH(half16, through_half)
"""


def apply(target: str, name: str, x: Array, folder: Path) -> Array:
    source, shared = folder / "functions.c", folder / "functions.so"
    source.write_text(FUNCTIONS)
    compile_object(target, source, shared)
    out, pointer = np.zeros_like(x), ctypes.c_void_p
    assert x.size % 16 == 0
    function = getattr(ctypes.CDLL(str(shared)), name)
    function(pointer(out.ctypes.data), pointer(x.ctypes.data), ctypes.c_int64(x.size))
    return out


@on_each_target
def test_error_of_functions(target: str, tmp_path: Path) -> None:
    x = np.linspace(-80, 88, 1 << 18).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    np.testing.assert_allclose(apply(target, "exp16", x, tmp_path), exact, rtol=2e-7, atol=0)
    ends = np.array([0, -80.01, -1e9, -np.inf] * 4, np.float32)
    assert apply(target, "exp16", ends, tmp_path).tolist() == [1, 0, 0, 0] * 4

    x = np.concatenate([np.linspace(-12, 12, 1 << 16), np.geomspace(1e-30, 1, 1 << 10)])
    x = x.astype(np.float32)
    exact = np.tanh(x.astype(np.float64))
    np.testing.assert_allclose(apply(target, "tanh16", x, tmp_path), exact, rtol=1e-6, atol=0)
    exact = 1 + erf(x.astype(np.float64))
    np.testing.assert_allclose(apply(target, "erf16", x, tmp_path), exact, rtol=0, atol=6e-7)


@on_each_target
def test_float16_rounds_as_numpy_does(target: str, tmp_path: Path) -> None:
    every = np.arange(1 << 16).astype(np.uint16).view(np.float16).astype(np.float32)
    every = every[np.isfinite(every)]  # 63,488 of them
    between = np.concatenate([every, (every[1:] + every[:-1]) / 2, every[1:] * 1.0001])
    between = np.clip(between, -65504, 65504)[: between.size // 16 * 16].astype(np.float32)
    with np.errstate(over="ignore"):
        expected = between.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(apply(target, "half16", between, tmp_path), expected)
