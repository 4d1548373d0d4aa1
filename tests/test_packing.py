"""Packed matrices against their layouts, written out value by value, and against dequantisation."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgellm import packing, quant
from edgellm.tensor import MappedTensor, RearrangedTensor

HEADER = Path(__file__).resolve().parents[1] / "backends" / "cpu" / "kernels" / "edge.h"

Float = np.float32
Floats = NDArray[np.float32]

BLOCK_BYTES = {
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "Q4_0": 144,
    "Q4_1": 160,
    "Q5_0": 176,
    "Q5_1": 192,
    "Q8_0": 272,
    "Q4_K": 1184,
    "Q5_K": 1440,
    "Q6_K": 1680,
    "Q2_K": 672,
    "IQ4_NL": 144,
    "IQ4_XS": 1104,
}
AS_THEY_ARE = list(BLOCK_BYTES)
AS_OTHERS = [*packing.EXACT, "F64", "I8", "I16", "I32", "I64", "U8", "BOOL"]
EXACT = AS_THEY_ARE + AS_OTHERS


def random_tensor(
    kind_name: str, rows: int, columns: int, seed: int = 0, sane: bool = False
) -> MappedTensor:
    """Blocks of random bits; `sane` gives them scales as models have them."""
    rng = np.random.default_rng(seed)
    kind = quant.TYPES[kind_name]
    data = rng.integers(0, 256, kind.nbytes((rows, columns)), dtype=np.uint8)
    blocks = data.view(kind.dtype)
    for field in ("d", "dmin", "m") if sane else ():
        if field in (kind.dtype.names or ()):
            blocks[field] = rng.normal(size=len(blocks)) * 0.01
    return MappedTensor("t", (rows, columns), kind_name, data.data)


def pack(tensor: MappedTensor | RearrangedTensor) -> tuple[packing.Packed, NDArray[np.uint8]]:
    format, _ = packing.choose(tensor)
    rows, columns = tensor.shape
    out = np.full(packing.packed_bytes(format, rows, columns), 0xAA, dtype=np.uint8)
    packed = packing.pack_into(tensor, out)
    assert packed.nbytes == len(out)
    return packed, out


def unpacked(tensor: MappedTensor | RearrangedTensor) -> Floats:
    packed, data = pack(tensor)
    return packing.unpack(data, packed.format, packed.rows, packed.columns)


def assert_same_bits(found: Floats, expected: Floats) -> None:
    """Any NaN equals any other: arithmetic doesn't define which one comes out."""
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), ~numbers)
    np.testing.assert_array_equal(found[numbers].view("u4"), expected[numbers].view("u4"))


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 24])
@pytest.mark.parametrize("kind", EXACT)
def test_values_are_those_of_the_stored_blocks(kind: str, rows: int) -> None:
    tensor = random_tensor(kind, rows, 512)
    assert_same_bits(unpacked(tensor), tensor.float32())


@given(
    kind=st.sampled_from(EXACT),
    rows=st.integers(1, 40),
    blocks=st.integers(1, 6),
    piece=st.sampled_from([1, 1 << 12, 1 << 14, packing.PIECE]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150)
def test_values_are_the_same_however_the_work_is_cut(
    kind: str, rows: int, blocks: int, piece: int, seed: int
) -> None:
    columns = blocks * quant.TYPES[kind].values * (13 if quant.TYPES[kind].values == 1 else 1)
    tensor = random_tensor(kind, rows, columns, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "PIECE", piece)
        assert_same_bits(unpacked(tensor), tensor.float32())


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_numbers_keep_every_bit(kind: str) -> None:
    """Even those of NaN."""
    tensor = random_tensor(kind, 13, 1000)
    _, data = pack(tensor)
    width = quant.TYPES[kind].block_bytes
    stored = np.frombuffer(tensor.data, f"u{width}").reshape(13, 1000)
    groups = data.view(f"u{width}").reshape(2, 1000, 8).transpose(0, 2, 1).reshape(16, 1000)
    np.testing.assert_array_equal(groups[:13], stored)
    assert not groups[13:].any()


@pytest.mark.parametrize("kind", EXACT)
def test_rows_that_fill_the_last_group_are_zeros(kind: str) -> None:
    packed, data = pack(random_tensor(kind, 3, 512))
    values = packing.unpack(data, packed.format, 8, 512)
    assert not values[3:].any()


# The layouts, read byte by byte: the value of one row and one input of a block.

Block = bytes
Reader = Callable[[Block, int, int], Float]


def half(block: Block, at: int) -> Float:
    return Float(np.frombuffer(block, "<f2", 1, at)[0])


def signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def nibble(block: Block, at: int, row: int, i: int) -> int:
    v, j = i % 16 // 4, i % 4
    return block[at + v * 32 + row * 4 + j] >> (4 if i >= 16 else 0) & 15


def fifth(block: Block, at: int, row: int, i: int) -> int:
    return block[at + row * 4 + i % 4] >> i // 4 & 1


def q4_0(b: Block, row: int, i: int) -> Float:
    return half(b, 2 * row) * Float(nibble(b, 16, row, i) - 8)


def q4_1(b: Block, row: int, i: int) -> Float:
    return half(b, 2 * row) * Float(nibble(b, 32, row, i)) + half(b, 16 + 2 * row)


def q5_0(b: Block, row: int, i: int) -> Float:
    code = nibble(b, 16, row, i) | fifth(b, 144, row, i) << 4
    return half(b, 2 * row) * Float(code - 16)


def q5_1(b: Block, row: int, i: int) -> Float:
    code = nibble(b, 32, row, i) | fifth(b, 160, row, i) << 4
    return half(b, 2 * row) * Float(code) + half(b, 16 + 2 * row)


def q8_0(b: Block, row: int, i: int) -> Float:
    return half(b, 2 * row) * Float(signed(b[16 + i // 4 * 32 + row * 4 + i % 4]))


def scaled(b: Block, row: int, s: int, code: int) -> Float:
    factor, minimum = Float(b[32 + s * 8 + row]), Float(b[96 + s * 8 + row])
    return half(b, 2 * row) * factor * Float(code) - half(b, 16 + 2 * row) * minimum


def q4_k(b: Block, row: int, i: int) -> Float:
    s, i = divmod(i, 32)
    return scaled(b, row, s, nibble(b, 160 + s * 128, row, i))


def q5_k(b: Block, row: int, i: int) -> Float:
    s, i = divmod(i, 32)
    at = 160 + s * 160
    return scaled(b, row, s, nibble(b, at, row, i) | fifth(b, at + 128, row, i) << 4)


def q6_k(b: Block, row: int, i: int) -> Float:
    factor = Float(signed(b[16 + i // 16 * 8 + row]))
    s, i = divmod(i, 32)
    at = 144 + s * 192
    upper = b[at + 128 + i // 16 * 32 + row * 4 + i % 4] >> i % 16 // 4 * 2 & 3
    code = nibble(b, at, row, i) | upper << 4
    return half(b, 2 * row) * factor * Float(code - 32)


def q2_k(b: Block, row: int, i: int) -> Float:
    s = i // 16
    both = b[32 + s // 4 * 32 + row * 4 + s % 4]
    code = b[160 + s * 32 + row * 4 + i % 4] >> i % 16 // 4 * 2 & 3
    scaled = half(b, 2 * row) * Float(both & 15) * Float(code)
    return scaled - half(b, 16 + 2 * row) * Float(both >> 4)


def level(code: int) -> Float:
    return Float(quant.IQ4[code])


def iq4_nl(b: Block, row: int, i: int) -> Float:
    return half(b, 2 * row) * level(nibble(b, 16, row, i))


def iq4_xs(b: Block, row: int, i: int) -> Float:
    s, i = divmod(i, 32)
    factor = Float(signed(b[16 + s * 8 + row]))
    return half(b, 2 * row) * factor * level(nibble(b, 80 + s * 128, row, i))


READERS: dict[str, Reader] = {
    reader.__name__.upper(): reader
    for reader in (
        q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k, q2_k, iq4_nl, iq4_xs,
    )
}  # fmt: skip


@pytest.mark.parametrize("kind", READERS)
def test_bytes_lie_as_the_layout_says(kind: str) -> None:
    values, columns = quant.TYPES[kind].values, 512
    tensor = random_tensor(kind, 12, columns, sane=True)
    _, data = pack(tensor)
    width = columns // values
    blocks = data.reshape(2, width, BLOCK_BYTES[kind])
    found = np.array(
        [
            [
                READERS[kind](blocks[row // 8, i // values].tobytes(), row % 8, i % values)
                for i in range(columns)
            ]
            for row in range(12)
        ]
    )
    assert_same_bits(found, tensor.float32())


def test_sizes_are_those_of_the_layouts() -> None:
    assert {name: dtype.itemsize for name, dtype in packing.BLOCKS.items()} == BLOCK_BYTES
    assert packing.packed_bytes("Q4_0", 9, 64) == 2 * 2 * 144
    assert packing.packed_bytes("Q6_K", 8, 512) == 2 * 1680
    assert packing.packed_bytes("F16", 1, 5) == 5 * 16


def test_formats_are_those_that_kernels_know() -> None:
    known = re.findall(r"FORMAT_(\w+) = (\d+)", HEADER.read_text())
    assert {name: int(number) for name, number in known} == {
        name: number for number, name in enumerate(packing.BLOCKS)
    }


@pytest.mark.parametrize("kind", quant.TYPES)
def test_a_change_of_type_is_noted(kind: str) -> None:
    tensor = random_tensor(kind, 1, 256)
    format, note = packing.choose(tensor)
    assert packing.pack_into(tensor, bytearray_of(format, 1, 256)).note == note
    assert (note == "") == (format == kind)
    assert ("rounded" in note) == (kind in ("F64", "I32", "I64"))


def bytearray_of(format: str, rows: int, columns: int) -> memoryview:
    return memoryview(bytearray(packing.packed_bytes(format, rows, columns)))


@pytest.mark.parametrize("spare", [-144, 288, 1])
def test_room_of_another_size_is_refused(spare: int) -> None:
    room = np.empty(4 * 144 + spare, dtype=np.uint8)
    with pytest.raises(ValueError, match=r"."):
        packing.pack_into(random_tensor("Q4_0", 16, 64), room)


@pytest.mark.parametrize("shape", [(4096, 1024), (8, 1 << 19)])
@pytest.mark.parametrize("kind", quant.TYPES)
def test_memory_does_not_grow_with_the_matrix(kind: str, shape: tuple[int, int]) -> None:
    tensor = MappedTensor(
        "t", shape, kind, np.zeros(quant.TYPES[kind].nbytes(shape), np.uint8).data
    )
    out = bytearray_of(packing.choose(tensor)[0], *shape)
    tracemalloc.start()
    try:
        packing.pack_into(tensor, out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24 << 20


def ungroup(fused: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.concatenate([fused[1::2], fused[::2]])


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "F64"])
@pytest.mark.parametrize("change", [np.transpose, ungroup])
def test_moved_values_keep_their_type(
    kind: str, change: Callable[[NDArray[np.generic]], NDArray[np.generic]]
) -> None:
    source = random_tensor(kind, 24, 37)
    shape = (37, 24) if change is np.transpose else (24, 37)
    moved = RearrangedTensor("t", shape, kind, source.nbytes, (source,), change)
    assert packing.choose(moved) == packing.choose(source)
    assert_same_bits(unpacked(moved), moved.float32())


def test_ternary_values_take_four_bits() -> None:
    rng = np.random.default_rng(0)
    signs = rng.integers(-1, 2, (11, 96)).astype(np.float32)
    source = MappedTensor("t", (11, 96), "F32", signs.view(np.uint8).data)
    factor = Float(0.0123)
    tensor = RearrangedTensor(
        "t", (11, 96), "F32", source.nbytes, (source,), lambda w: w * factor, "ternary"
    )
    packed, _ = pack(tensor)
    assert packed.format == "Q4_0"
    assert "rounded" in packed.note
    np.testing.assert_array_equal(unpacked(tensor), signs * Float(np.float16(factor)))


def test_computed_values_are_float32() -> None:
    source = MappedTensor("t", (8, 33), "F16", np.ones((8, 33), "<f2").view(np.uint8).data)
    tensor = RearrangedTensor("t", (8, 33), "F16", 0, (source,), lambda w: w + 1, "computed")
    assert packing.choose(tensor)[0] == "F32"
    assert_same_bits(unpacked(tensor), tensor.float32())


def test_a_matrix_by_its_shape_alone_is_kept_as_it_is() -> None:
    names = ["attn_q.weight", "attn_q_norm.weight", "attn_q_norm.bias", "shortconv.conv.weight"]
    tensors = {
        f"blk.0.{name}": MappedTensor(name, (4, 8), "F32", memoryview(bytes(128))) for name in names
    }
    assert list(packing.formats(tensors)) == ["blk.0.attn_q.weight"]


@pytest.mark.parametrize(
    ("rows", "formats"), [(1 << 14, ["F32", "F16"]), (1 << 15, ["Q8_0", "F16"])]
)
def test_small_models_are_packed_in_floats(rows: int, formats: list[str]) -> None:
    tensors = {
        kind: MappedTensor(kind, (rows, 128), kind, memoryview(b"")) for kind in ("Q8_0", "F16")
    }
    assert list(packing.formats(tensors).values()) == formats


@pytest.mark.parametrize("kind", quant.TYPES)
@pytest.mark.parametrize("rows", [5, 24])
def test_any_type_in_float32(kind: str, rows: int) -> None:
    tensor = random_tensor(kind, rows, 768)
    out = bytearray_of("F32", rows, 768)
    packed = packing.pack_into(tensor, out, "F32")
    assert packed.note.startswith("" if kind == "F32" else f"{kind} packed as F32")
    assert_same_bits(packing.unpack(out, "F32", rows, 768), tensor.float32())
