"""Attention over a stored past, against float64, and each row's independence of its neighbours."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import kernel_process
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from kernel_library import aligned, build, call, compile_object, targets
from numpy.typing import NDArray

Array = NDArray[np.float32]

on_each_target = pytest.mark.parametrize("target", targets())


@dataclass(frozen=True)
class Layer:
    """Shape and options of one layer's attention."""

    heads: int = 4
    keys: int = 2
    width: int = 16
    context: int = 64
    slots: int = 1
    int8: bool = False
    window: int = 0
    softcap: float = 0.0
    alibi: bool = False

    @property
    def scale(self) -> float:
        return self.width**-0.5

    def state_bytes(self) -> int:
        """Of one slot: as state.h says."""
        values = self.keys * self.context * self.width
        each = values + self.keys * self.context * 2 if self.int8 else values * 2
        return -(-2 * each // 64) * 64 + 64

    def slopes(self) -> Array:
        return (0.5 ** np.arange(1, self.heads + 1)).astype(np.float32)


@dataclass
class Past:
    """A layer's state in memory, and what was put there, in float64."""

    target: str
    layer: Layer

    def __post_init__(self) -> None:
        layer = self.layer
        self.state = aligned(layer.state_bytes() * layer.slots)
        self.state[:] = 0xFF  # NaN, for whoever reads what nobody stored
        shape = (layer.slots, layer.context, layer.keys, layer.width)
        self.keys, self.values = np.zeros(shape), np.zeros(shape)

    def store(
        self, keys: Array, values: Array, positions: Sequence[int], slots: Sequence[int]
    ) -> None:
        """Put rows (T, K, C) in their places."""
        layer = self.layer
        call(
            build(self.target, "store"),
            "store",
            [self.state, keys, values],
            [layer.keys, layer.width],
            rows=len(positions),
            positions=positions,
            slots=slots,
            context=layer.context,
            slot_count=layer.slots,
            kv_int8=layer.int8,
        )
        for row, (position, slot) in enumerate(zip(positions, slots, strict=True)):
            self.keys[slot, position] = kept(keys[row], layer.int8)
            self.values[slot, position] = kept(values[row], layer.int8)

    def attend(
        self,
        queries: Array,
        positions: Sequence[int],
        slots: Sequence[int],
        threads: int = 1,
        seed: int = 0,
    ) -> Array:
        """What the kernels make of queries (T, H, C)."""
        layer, out, scratch = self.layer, np.full_like(queries, np.nan), aligned(1 << 24)
        for kernel in ("attend", "attend_merge"):
            call(
                build(self.target, "attend"),
                kernel,
                [out, self.state, queries, layer.slopes() if layer.alibi else None],
                [layer.heads, layer.keys, layer.width, layer.window],
                [layer.scale, layer.softcap],
                rows=len(positions),
                threads=threads,
                positions=positions,
                slots=slots,
                context=layer.context,
                slot_count=layer.slots,
                kv_int8=layer.int8,
                scratch=scratch,
                seed=seed,
            )
        return out

    def expected(
        self, queries: Array, positions: Sequence[int], slots: Sequence[int]
    ) -> NDArray[np.float64]:
        """The same by definition, in float64."""
        layer, out = self.layer, np.zeros(queries.shape)
        for row, (position, slot) in enumerate(zip(positions, slots, strict=True)):
            first = max(position - layer.window + 1, 0) if layer.window else 0
            behind = position - np.arange(first, position + 1)
            for head in range(layer.heads):
                key_head = head * layer.keys // layer.heads
                keys = self.keys[slot, first : position + 1, key_head]
                scores = keys @ queries[row, head].astype(np.float64) * layer.scale
                if layer.softcap:
                    scores = np.tanh(scores / layer.softcap) * layer.softcap
                if layer.alibi:
                    scores = scores - layer.slopes()[head] * behind * layer.scale
                weights = np.exp(scores - scores.max())
                values = self.values[slot, first : position + 1, key_head]
                out[row, head] = weights / weights.sum() @ values
        return out


def kept(x: Array, int8: bool) -> NDArray[np.float64]:
    """Numbers (heads, C) as a state keeps them: as float16, or int8 with a float16 scale a head,
    of a few that leaves the least error."""
    x = np.clip(np.nan_to_num(x, nan=0.0), -65504, 65504)
    if not int8:
        return x.astype(np.float16).astype(np.float64)
    tried = []
    for largest in range(127, 127 - min(max(256 // x.shape[1], 1), 8), -1):
        scale = (np.abs(x).max(axis=1, keepdims=True) / largest).astype(np.float16).astype(float)
        codes = np.divide(x, scale, out=np.zeros(x.shape), where=scale > 0)
        tried.append(np.clip(np.rint(codes), -127, 127) * scale)
    errors = [np.square(x - values).sum(axis=1) for values in tried]
    closest: NDArray[np.float64] = np.choose(np.argmin(errors, axis=0)[:, None], tried)
    return closest


def rows(layer: Layer, count: int, seed: int, heads: int, size: float = 1.0) -> Array:
    return (
        np.random.default_rng(seed).normal(0, size, (count, heads, layer.width)).astype(np.float32)
    )


def filled(target: str, layer: Layer, count: int, size: float = 1.0) -> Past:
    """A past with `count` positions in every slot."""
    past = Past(target, layer)
    for slot in range(layer.slots):
        keys, values = (rows(layer, count, 10 * slot + i, layer.keys, size) for i in range(2))
        past.store(keys, values, range(count), [slot] * count)
    return past


def check(past: Past, queries: Array, positions: Sequence[int], slots: Sequence[int]) -> None:
    out = past.attend(queries, positions, slots)
    expected = past.expected(queries, positions, slots)
    # int8 codes on the edge may round either way.
    tolerance = (1e-3 if past.layer.int8 else 2e-5) * np.abs(past.values).max()
    np.testing.assert_allclose(out, expected, rtol=0, atol=tolerance)


# --- right --------------------------------------------------------------------------------------


@on_each_target
@pytest.mark.parametrize("int8", [False, True])
@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(data=st.data())
def test_attention_is_as_defined_for_any_shape(
    target: str, int8: bool, data: st.DataObject
) -> None:
    draw = data.draw
    keys = draw(st.integers(1, 3))
    layer = Layer(
        heads=keys * draw(st.sampled_from([1, 2, 3, 7, 8, 9, 17])),
        keys=keys,
        width=draw(st.sampled_from([4, 8, 16, 20, 24, 32, 64, 80, 96, 128, 256, 512])),
        context=draw(st.sampled_from([16, 48, 256, 304, 528, 1040])),
        slots=2,
        int8=int8,
        window=draw(st.sampled_from([0, 0, 1, 5, 16, 255, 256, 300])),
        softcap=draw(st.sampled_from([0.0, 0.0, 2.0, 50.0])),
        alibi=draw(st.sampled_from([False, False, True])),
    )
    past = filled(target, layer, layer.context)
    placed = [
        (slot, position)
        for slot in range(2)
        for position in sorted(draw(st.sets(st.integers(0, layer.context - 1), max_size=7)))
    ] or [(0, 0)]
    slots, positions = [slot for slot, _ in placed], [position for _, position in placed]
    check(past, rows(layer, len(placed), 5, layer.heads, size=2), positions, slots)


@on_each_target
def test_a_whole_prompt(target: str) -> None:
    layer = Layer(heads=9, keys=3, width=64, context=560)
    past = filled(target, layer, 530)
    queries = rows(layer, 530, 5, 9, size=3)
    check(past, queries, range(530), [0] * 530)


@on_each_target
def test_scores_far_apart_leave_one_position(target: str) -> None:
    layer = Layer(width=16, context=512, softcap=0.0)
    past = filled(target, layer, 512)
    queries = rows(layer, 4, 5, 4, size=1e4)
    positions = [3, 100, 300, 511]
    check(past, queries, positions, [0] * 4)


@on_each_target
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("size", [0.0, 1e-6, 1e-3, 3e4])
def test_small_and_large_keys_and_values(target: str, int8: bool, size: float) -> None:
    layer = Layer(context=32, int8=int8)
    past = filled(target, layer, 20, size)
    queries = rows(layer, 2, 5, 4, 1e-3)
    check(past, queries, [7, 19], [0, 0])


@on_each_target
def test_int8_is_within_half_a_percent_of_float(target: str) -> None:
    layer = Layer(heads=9, keys=3, width=64, context=512)
    queries = rows(layer, 3, 5, 9)
    whole, small = (filled(target, replace(layer, int8=int8), 500) for int8 in (False, True))
    exact = whole.attend(queries, [10, 300, 499], [0] * 3)
    error = small.attend(queries, [10, 300, 499], [0] * 3) - exact
    assert np.sqrt(np.mean(error**2) / np.mean(exact**2)) < 0.01
    stored = np.sqrt(np.mean((small.keys - whole.keys) ** 2) / np.mean(whole.keys**2))
    assert stored < 0.007


@pytest.mark.parametrize("int8", [False, True])
def test_attention_on_arm(int8: bool) -> None:
    layer = Layer(heads=7, keys=1, width=20, context=304, int8=int8, window=280)
    past = Past(targets()[0], layer)  # for what it expects
    keys, values = (rows(layer, 300, i, layer.keys) for i in range(2))
    past.store(keys, values, range(300), [0] * 300)
    state = np.full_like(past.state, 0xFF)
    queries = rows(layer, 20, 5, layer.heads)  # so many that they need no merging
    out, positions = np.zeros_like(queries), list(range(280, 300))
    arm, shape = "cortex-a53", [layer.keys, layer.width]
    place = {"context": layer.context, "kv_int8": int8}
    kernel_process.call(arm, "store", "store", [state, keys, values], shape, rows=300, **place)
    kernel_process.call(
        arm,
        "attend",
        "attend",
        [out, state, queries, None],
        [layer.heads, *shape, layer.window],
        [layer.scale, 0.0],
        rows=20,
        positions=positions,
        **place,
    )
    tolerance = (1e-3 if int8 else 2e-5) * np.abs(past.values).max()
    expected = past.expected(queries, positions, [0] * 20)
    np.testing.assert_allclose(out, expected, rtol=0, atol=tolerance)


# --- whatever surrounds a row -------------------------------------------------------------------


@on_each_target
@pytest.mark.parametrize(
    "layer",
    [
        Layer(heads=9, keys=3, width=64, context=560, slots=3),
        Layer(heads=8, keys=1, width=20, context=560, slots=3, int8=True, window=270),
        Layer(heads=3, keys=3, width=24, context=560, slots=3, softcap=4.0, alibi=True),
    ],
    ids=["plain", "int8 window", "softcap alibi"],
)
def test_a_row_is_the_same_bits_in_every_step(target: str, layer: Layer) -> None:
    past = filled(target, layer, 540)
    queries = rows(layer, 540, 5, layer.heads)
    prompt = past.attend(queries, range(540), [1] * 540)  # many rows: tiles
    for position in (0, 1, 15, 16, 255, 256, 269, 300, 511, 539):
        alone = past.attend(queries[position : position + 1], [position], [1], seed=position)
        np.testing.assert_array_equal(alone[0], prompt[position])
    # A part of the prompt, cut elsewhere, in another order of work.
    part = past.attend(queries[250:300], range(250, 300), [1] * 50, threads=2, seed=1)
    np.testing.assert_array_equal(part, prompt[250:300])
    # Between rows of other slots, few and many.
    for count in (3, 8, 20):
        positions = [300 + i for i in range(count)]
        slots = [i % 3 for i in range(count)]
        mixed = past.attend(queries[positions], positions, slots, seed=2)
        for row in range(count):
            if slots[row] == 1:
                np.testing.assert_array_equal(mixed[row], prompt[positions[row]])


@on_each_target
def test_a_slot_does_not_matter(target: str) -> None:
    layer = Layer(heads=6, keys=2, width=12, context=304, slots=3)
    past = Past(target, layer)
    keys, values = (rows(layer, 300, i, 2) for i in range(2))
    queries = rows(layer, 1, 5, 6)
    for slot in (0, 2):
        past.store(keys, values, range(300), [slot] * 300)
    out = [past.attend(queries, [299], [slot]) for slot in (0, 2)]
    np.testing.assert_array_equal(*out)


@on_each_target
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("garbage", [np.inf, -np.inf, np.nan, 3e38])
def test_later_positions_never_reach_a_row(target: str, int8: bool, garbage: float) -> None:
    layer = Layer(context=64, int8=int8)
    queries = rows(layer, 40, 5, 4)
    clean = filled(target, layer, 40).attend(queries[:20], range(20), [0] * 20)
    past = filled(target, layer, 20)
    bad = np.full((20, layer.keys, layer.width), garbage, np.float32)
    past.store(bad, bad, range(20, 40), [0] * 20)
    out = past.attend(queries, range(40), [0] * 40)  # tiles that hold both kinds of rows
    np.testing.assert_array_equal(out[:20], clean)
    assert np.isfinite(out).all()


@on_each_target
def test_a_window_reads_nothing_before_it(target: str) -> None:
    layer = Layer(context=1024, window=10)
    past = Past(target, layer)  # NaN wherever nothing is stored
    keys, values = (rows(layer, 16, i, 2) for i in range(2))
    past.store(keys, values, range(800, 816), [0] * 16)
    check(past, rows(layer, 2, 5, 4), [810, 815], [0, 0])


# --- the state as such --------------------------------------------------------------------------

STATE_SHIM = """
#include "state.h"
size_t size_of(int64_t keys, int64_t width, int64_t context, int int8) {
    return state_bytes((StateShape){keys, width, context, int8});
}
void copy(int64_t keys, int64_t width, int64_t context, int int8, void *state, int64_t from,
          int64_t to, int64_t length) {
    copy_state((StateShape){keys, width, context, int8}, state, from, to, length);
}
"""


@cache
def state_library(folder: Path) -> ctypes.CDLL:
    source, out = folder / "state.c", folder / "state.so"
    source.write_text(STATE_SHIM)
    compile_object(targets()[0], source, out)
    library = ctypes.CDLL(str(out))
    library.size_of.restype = ctypes.c_size_t
    return library


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize(("keys", "width", "context"), [(1, 4, 16), (3, 64, 2048), (2, 20, 48)])
def test_size_of_a_state(keys: int, width: int, context: int, int8: bool, tmp_path: Path) -> None:
    layer = Layer(keys=keys, width=width, context=context, int8=int8)
    assert state_library(tmp_path).size_of(*map(ctypes.c_int64, (keys, width, context)), int8) == (
        layer.state_bytes()
    )


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("length", [1, 16, 17, 40])
def test_a_copied_prefix_continues_as_the_original(int8: bool, length: int, tmp_path: Path) -> None:
    layer = Layer(context=48, slots=2, int8=int8)
    past = Past(targets()[-1], layer)
    keys, values = (rows(layer, length, i, 2) for i in range(2))
    past.store(keys, values, range(length), [0] * length)
    shape = [ctypes.c_int64(n) for n in (layer.keys, layer.width, layer.context)]
    state_library(tmp_path).copy(
        *shape, int8, ctypes.c_void_p(past.state.ctypes.data), *map(ctypes.c_int64, (0, 1, length))
    )
    queries = rows(layer, 1, 5, 4)
    original, copied = (past.attend(queries, [length - 1], [slot]) for slot in (0, 1))
    np.testing.assert_array_equal(copied, original)
