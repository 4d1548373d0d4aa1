"""edge_linear and edge_embed against plain arithmetic, on every target that this machine runs."""

from __future__ import annotations

import kernel_library
import numpy as np
import packed_weights
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from packed_weights import FLOATS, FORMATS

INTEGERS = [name for name in FORMATS if name not in FLOATS]
each_target = pytest.mark.parametrize("target", kernel_library.targets() or [""])


@pytest.fixture(autouse=True)
def some_target() -> None:
    if not kernel_library.targets():
        pytest.skip("no target of the kernels runs on this machine")


class Input:
    """Rows of activations: as float32, as quantised rows, and the values those stand for."""

    def __init__(self, x: NDArray[np.float32]) -> None:
        self.floats = np.ascontiguousarray(x, np.float32)
        self.quantised = kernel_library.quantise(self.floats)

    @classmethod
    def of_codes(cls, code: NDArray[np.int8], scale: NDArray[np.float32]) -> Input:
        made = cls(np.repeat(scale, 32, axis=1) * code)
        made.quantised = kernel_library.quantised_rows(code, scale)
        return made

    def values(self, name: str) -> NDArray[np.float64]:
        width = self.floats.shape[1]
        if name in FLOATS:
            return self.floats.astype(np.float64)
        code = self.quantised[:, :width].view(np.int8).astype(np.float64)
        scale = np.ascontiguousarray(self.quantised[:, width : width + width // 8])
        each = scale.view(np.float32).astype(np.float64)
        return code * np.repeat(each, 32, axis=1)

    def rows(self, chosen: slice) -> Input:
        made = Input(self.floats[chosen])
        made.quantised = np.ascontiguousarray(self.quantised[chosen])
        return made


def linear(
    target: str,
    x: Input,
    matrices: list[tuple[str, NDArray[np.generic], int]],
    threads: int = 1,
    seed: int = 0,
    from_memory: bool = False,
) -> list[NDArray[np.float32]]:
    """What the kernel makes of (format, packed weight, rows) matrices; checks what lies behind."""
    rows, width = x.floats.shape
    names = {name for name, _, _ in matrices}
    outs = [np.full(rows * n + 16, np.nan, np.float32) for _, _, n in matrices]
    buffers: list[NDArray[np.generic] | None] = [
        x.floats if names & set(FLOATS) else None,
        x.quantised if names - set(FLOATS) else None,
    ]
    numbers = [width, len(matrices)]
    for (name, weight, n), out in zip(matrices, outs, strict=True):
        buffers += [weight, out]
        numbers += [FORMATS.index(name), n]
    kernel_library.call(
        kernel_library.build(target, "linear"),
        "linear",
        buffers,
        numbers,
        rows=rows,
        threads=threads,
        seed=seed,
        from_memory=from_memory,
    )
    assert all(np.isnan(out[-16:]).all() for out in outs)
    return [out[:-16].reshape(rows, -1) for out in outs]


def close(got: NDArray[np.float32], x: Input, name: str, weights: NDArray[np.float64]) -> bool:
    """Within float32's rounding of sums of such products, whose count and size are known."""
    values = x.values(name)
    size = np.abs(values) @ np.abs(weights).T
    # Rounding errors of a sum grow like its length at worst; here like the chain of 32-blocks, or
    # of a quarter of the inputs. Half of that many units of rounding is far from the worst case.
    length = 8 + weights.shape[1] / (8 if name in FLOATS else 32)
    return bool((np.abs(got - values @ weights.T) <= size * length * 2.0**-24 + 1e-30).all())


@each_target
@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=6)
@given(data=st.data())
def test_products_are_exact_but_for_rounding(target: str, name: str, data: st.DataObject) -> None:
    unit = packed_weights.block_inputs(name)
    width = unit * data.draw(st.integers(1, 80 if unit < 256 else 5), "blocks")
    n = data.draw(st.integers(1, 90), "weight rows")
    rows = data.draw(st.sampled_from([1, 2, 3, 4, 5, 6, 7, 9, 17, 98]), "rows")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32), "seed"))
    padded = -(-width // 32) * 32
    x = Input(rng.standard_normal((rows, padded)).astype(np.float32))
    if name in FLOATS:
        x.floats = np.ascontiguousarray(x.floats[:, :width])
    weight = packed_weights.random_weights(name, n, width, rng)
    threads = data.draw(st.integers(1, 9), "threads")
    (got,) = linear(target, x, [(name, weight, n)], threads)
    assert close(got, x, name, packed_weights.meaning(name, weight, n))


@each_target
@pytest.mark.parametrize("name", FORMATS)
def test_a_row_does_not_depend_on_its_neighbours(target: str, name: str) -> None:
    rng = np.random.default_rng(5)
    n, width, rows = 77, 768, 131
    x = Input(rng.standard_normal((rows, width)).astype(np.float32))
    weight = packed_weights.random_weights(name, n, width, rng)
    (whole,) = linear(target, x, [(name, weight, n)])
    for count, threads in ((1, 1), (1, 8), (2, 2), (3, 1), (4, 4), (5, 1), (6, 2), (8, 3), (97, 2)):
        for first in (0, rows - count):
            part = x.rows(slice(first, first + count))
            (got,) = linear(target, part, [(name, weight, n)], threads, count, count % 2 == 0)
            np.testing.assert_array_equal(got, whole[first : first + count])


@each_target
def test_matrices_that_share_their_input(target: str) -> None:
    rng = np.random.default_rng(6)
    x = Input(rng.standard_normal((7, 512)).astype(np.float32))
    shapes = zip(
        ("Q4_0", "F16", "Q6_K", "Q8_0", "F32", "Q4_K", "Q5_1"), range(1, 200, 30), strict=True
    )
    matrices = [(name, packed_weights.random_weights(name, n, 512, rng), n) for name, n in shapes]
    for got, (name, weight, n) in zip(linear(target, x, matrices, 5), matrices, strict=True):
        assert close(got, x, name, packed_weights.meaning(name, weight, n))
        np.testing.assert_array_equal(got, linear(target, x, [(name, weight, n)])[0])


def extreme(name: str, kind: str, rows: int, width: int) -> NDArray[np.generic]:
    """Codes (and K formats' scales) all of the largest magnitude; d and m are 1."""
    weight = packed_weights.random_weights(name, rows, width, np.random.default_rng(0))
    # Every bit of a code; -128 for those that are signed.
    raw = weight.view(np.uint8)
    raw[:] = {"largest": 255, "smallest": 0, "lowest": 128}[kind]
    for field in ("d", "m"):
        if field in (weight.dtype.names or ()):
            weight[field] = 1
    return weight


@each_target
@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("kind", ["largest", "smallest", "lowest"])
@pytest.mark.parametrize("width", [256, 16384])
def test_extreme_codes(target: str, name: str, kind: str, width: int) -> None:
    # 16,384 inputs: the longest row of the models in view.
    weight = extreme(name, kind, 17, width)
    sign = np.where(np.arange(width) % 3 == 0, -1, 1)
    code = np.stack([np.full(width, 127), np.full(width, -127), 127 * sign] * 3).astype(np.int8)
    x = Input.of_codes(code, np.ones((9, width // 32), np.float32))
    meaning = packed_weights.meaning(name, weight, 17)
    for count in (1, 9):
        part = x.rows(slice(0, count))
        (got,) = linear(target, part, [(name, weight, 17)])
        assert close(got, part, name, meaning)


@each_target
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "F32"])
def test_scales_that_are_no_ordinary_numbers(target: str, name: str) -> None:
    width = 256
    rng = np.random.default_rng(7)
    x = Input(rng.standard_normal((6, width)).astype(np.float32))
    weight = packed_weights.random_weights(name, 8, width, rng)
    field = weight if name in FLOATS else weight["d"]
    ordinary = np.asarray(field).copy()
    for value in (np.inf, -np.inf, np.nan, 2.0**-24, -(2.0**-15), 0.0, 65504.0):
        field[...] = ordinary
        if name == "BF16":
            field[:, 0, 3] = np.float32(value).view(np.uint32) >> 16
        else:
            field[:, 0, 3] = value  # row 3's first input or block
        with np.errstate(invalid="ignore"):
            want = x.values(name) @ packed_weights.meaning(name, weight, 8).T
        for count in (1, 6):
            (got,) = linear(target, x.rows(slice(0, count)), [(name, weight, 8)])
            finite = np.isfinite(want[:count])
            np.testing.assert_array_equal(np.isfinite(got), finite)
            size = np.abs(want[:count][finite]).max()
            np.testing.assert_allclose(
                got[finite], want[:count][finite], rtol=1e-4, atol=float(size) * 1e-5
            )


@each_target
def test_rows_of_zeros(target: str) -> None:
    x = Input(np.zeros((5, 256), np.float32))
    rng = np.random.default_rng(8)
    for name in FORMATS:
        weight = packed_weights.random_weights(name, 20, 256, rng)
        (got,) = linear(target, x, [(name, weight, 20)])
        assert not got.any()


@each_target
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("by_position", [False, True])
def test_embedding_rows(target: str, name: str, by_position: bool) -> None:
    rng = np.random.default_rng(9)
    table = packed_weights.random_weights(name, 21, 512, rng)
    index = [20, -1, 0, 21, 7, 2**31 - 1, -(2**31), 8, *range(21)]
    out = np.full((len(index) + 1, 512), np.nan, np.float32)
    kernel_library.call(
        kernel_library.build(target, "embed"),
        "embed",
        [out, table],
        [FORMATS.index(name), 512, 21, int(by_position)],
        rows=len(index),
        threads=2,
        **{"positions" if by_position else "tokens": index},
    )
    meaning = packed_weights.meaning(name, table, 21).astype(np.float32)
    want = np.stack([meaning[i] if 0 <= i < 21 else np.zeros(512) for i in index])
    np.testing.assert_allclose(out[:-1], want, rtol=3e-7, atol=1e-6)
    assert np.isnan(out[-1]).all()
