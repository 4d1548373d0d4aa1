"""Block formats, each against its definition written out value by value."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm import quant
from edgellm.errors import UnsupportedError

Float = np.float32
Block = bytes


def half(block: Block, at: int) -> Float:
    return Float(np.frombuffer(block, "<f2", 1, at)[0])


def nibble(block: Block, at: int, i: int) -> int:
    """Value i of 32 four-bit ones: the low halves of 16 bytes, then the high halves."""
    return block[at + i % 16] >> (4 if i >= 16 else 0) & 15


def q4_0(b: Block) -> Iterator[Float]:
    for i in range(32):
        yield half(b, 0) * Float(nibble(b, 2, i) - 8)


def q4_1(b: Block) -> Iterator[Float]:
    for i in range(32):
        yield half(b, 0) * Float(nibble(b, 4, i)) + half(b, 2)


def q5_0(b: Block) -> Iterator[Float]:
    high = int.from_bytes(b[2:6], "little")
    for i in range(32):
        yield half(b, 0) * Float((nibble(b, 6, i) | (high >> i & 1) << 4) - 16)


def q5_1(b: Block) -> Iterator[Float]:
    high = int.from_bytes(b[4:8], "little")
    for i in range(32):
        yield half(b, 0) * Float(nibble(b, 8, i) | (high >> i & 1) << 4) + half(b, 2)


def q8_0(b: Block) -> Iterator[Float]:
    for i in range(32):
        yield half(b, 0) * Float(np.int8(b[2 + i] - 256 if b[2 + i] > 127 else b[2 + i]))


def q2_k(b: Block) -> Iterator[Float]:
    for i in range(256):
        group, scale = i // 128, b[i // 16]
        q = b[16 + group * 32 + i % 32] >> i % 128 // 32 * 2 & 3
        yield half(b, 80) * Float(scale & 15) * Float(q) - half(b, 82) * Float(scale >> 4)


def q3_k(b: Block) -> Iterator[Float]:
    for i in range(256):
        j = i // 16
        low = b[96 + j % 8] >> (4 if j >= 8 else 0) & 15
        scale = (low | (b[104 + j % 4] >> j // 4 * 2 & 3) << 4) - 32
        q = b[32 + i // 128 * 32 + i % 32] >> i % 128 // 32 * 2 & 3
        q -= 0 if b[i % 32] >> i // 32 & 1 else 4
        yield half(b, 108) * Float(scale) * Float(q)


def scale_and_minimum(b: Block, j: int) -> tuple[Float, Float]:
    """Of group j of 32 values, in Q4_K and Q5_K: six bits each in bytes 4 to 15."""
    s = b[4:16]
    if j < 4:
        return Float(s[j] & 63), Float(s[j + 4] & 63)
    scale = s[j + 4] & 15 | (s[j - 4] >> 6) << 4
    minimum = s[j + 4] >> 4 | (s[j] >> 6) << 4
    return Float(scale), Float(minimum)


def q4_k(b: Block) -> Iterator[Float]:
    for i in range(256):
        scale, minimum = scale_and_minimum(b, i // 32)
        q = b[16 + i // 64 * 32 + i % 32] >> (4 if i % 64 >= 32 else 0) & 15
        yield half(b, 0) * scale * Float(q) - half(b, 2) * minimum


def q5_k(b: Block) -> Iterator[Float]:
    for i in range(256):
        scale, minimum = scale_and_minimum(b, i // 32)
        q = b[48 + i // 64 * 32 + i % 32] >> (4 if i % 64 >= 32 else 0) & 15
        q |= (b[16 + i % 32] >> i // 32 & 1) << 4
        yield half(b, 0) * scale * Float(q) - half(b, 2) * minimum


def q6_k(b: Block) -> Iterator[Float]:
    for i in range(256):
        low = b[i // 128 * 64 + i % 64] >> (4 if i % 128 >= 64 else 0) & 15
        high = b[128 + i // 128 * 32 + i % 32] >> i % 128 // 32 * 2 & 3
        scale = np.frombuffer(b, np.int8, 16, 192)[i // 16]
        yield half(b, 208) * Float(scale) * Float((low | high << 4) - 32)


LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def iq4_nl(b: Block) -> Iterator[Float]:
    for i in range(32):
        yield half(b, 0) * Float(LEVELS[nibble(b, 2, i)])


def iq4_xs(b: Block) -> Iterator[Float]:
    high = int.from_bytes(b[2:4], "little")
    for i in range(256):
        j = i // 32
        scale = (b[4 + j // 2] >> j % 2 * 4 & 15 | (high >> 2 * j & 3) << 4) - 32
        yield half(b, 0) * Float(scale) * Float(LEVELS[nibble(b, 8 + 16 * j, i % 32)])


def tq1_0(b: Block) -> Iterator[Float]:
    places = [(i % 32, i // 32) for i in range(160)]
    places += [(32 + i % 16, i // 16) for i in range(80)]
    places += [(48 + i % 4, i // 4) for i in range(16)]
    for byte, power in places:
        fraction = b[byte] * 3**power % 256
        yield half(b, 52) * Float(fraction * 3 // 256 - 1)


def tq2_0(b: Block) -> Iterator[Float]:
    for i in range(256):
        yield half(b, 64) * Float((b[i // 128 * 32 + i % 32] >> i % 128 // 32 * 2 & 3) - 1)


REFERENCES: dict[str, Callable[[Block], Iterator[Float]]] = {
    function.__name__.upper(): function
    for function in (
        *(q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k),
        *(iq4_nl, iq4_xs, tq1_0, tq2_0),
    )
}
FLOATS = ("F64", "F32", "F16", "BF16")
INTEGERS = ("I64", "I32", "I16", "I8", "U8", "BOOL")


def random_blocks(name: str, count: int, seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    kind = quant.TYPES[name]
    blocks = rng.integers(0, 256, count * kind.block_bytes, dtype=np.uint8).view(kind.dtype)
    for field in ("d", "m", "dmin"):
        if field in (kind.dtype.names or ()):
            blocks[field] = rng.normal(size=count)
    return blocks.tobytes()


def test_every_type_is_covered() -> None:
    assert quant.TYPES.keys() == {*REFERENCES, *FLOATS, *INTEGERS}


@pytest.mark.parametrize("name", REFERENCES)
def test_blocks_equal_the_definition_bit_for_bit(name: str) -> None:
    kind, raw = quant.TYPES[name], random_blocks(name, 7)
    size = kind.block_bytes
    blocks = [raw[i * size : (i + 1) * size] for i in range(7)]
    expected = np.array([value for block in blocks for value in REFERENCES[name](block)], Float)
    found = quant.dequantise(name, raw, (7, kind.values))
    assert found.shape == (7, kind.values)
    np.testing.assert_array_equal(found.reshape(-1), expected)


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("blocks", [1, quant.CHUNK // 256 + 3])
def test_blocks_equal_the_reference_implementation(name: str, blocks: int) -> None:
    gguf = pytest.importorskip("gguf")
    kind, raw = quant.TYPES[name], random_blocks(name, blocks)
    expected = gguf.dequantize(
        np.frombuffer(raw, np.uint8).reshape(blocks, -1), gguf.GGMLQuantizationType[name]
    )
    np.testing.assert_array_equal(
        quant.dequantise(name, raw, (blocks, kind.values)).view(np.uint32),
        expected.view(np.uint32),
    )


@pytest.mark.parametrize(
    ("name", "values", "stored"),
    [
        ("F64", [1.5, -2.0], np.array([1.5, -2.0], "<f8").tobytes()),
        ("F32", [1.5, -2.0], np.array([1.5, -2.0], "<f4").tobytes()),
        ("F16", [1.5, -2.0], np.array([1.5, -2.0], "<f2").tobytes()),
        ("BF16", [1.5, -2.0], bytes.fromhex("c03f 00c0")),
        ("I64", [-3.0, 7.0], np.array([-3, 7], "<i8").tobytes()),
        ("I32", [-3.0, 7.0], np.array([-3, 7], "<i4").tobytes()),
        ("I16", [-3.0, 7.0], np.array([-3, 7], "<i2").tobytes()),
        ("I8", [-3.0, 7.0], b"\xfd\x07"),
        ("U8", [253.0, 7.0], b"\xfd\x07"),
        ("BOOL", [1.0, 0.0], b"\x01\x00"),
    ],
)
def test_plain_types(name: str, values: list[float], stored: bytes) -> None:
    found = quant.dequantise(name, stored, (2,))
    assert found.dtype == np.float32
    assert found.tolist() == values


def test_float32_is_not_copied_unless_it_is_unaligned() -> None:
    memory = np.zeros(33, np.uint8)
    assert np.shares_memory(quant.dequantise("F32", memory[:32], (8,)), memory)
    assert quant.dequantise("F32", memory[1:], (8,)).flags.aligned


@pytest.mark.parametrize("name", REFERENCES)
def test_any_bytes_dequantise_without_a_warning(name: str) -> None:
    kind = quant.TYPES[name]
    for fill in (b"\xff", b"\x7c", b"\x00"):
        quant.dequantise(name, fill * kind.block_bytes, (kind.values,))


def test_a_block_of_many_values_takes_more_bytes_than_an_eighth_of_them() -> None:
    """The GGUF reader bounds a tensor's values by this."""
    assert all(kind.values < 8 * kind.block_bytes for kind in quant.TYPES.values())


@pytest.mark.parametrize("name", ["F32", "F16", "Q8_0", "Q4_0"])
def test_quantised_values_come_back_close(name: str) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(5, 3, 64)).astype(np.float32)
    values[0, 0] = 0
    packed = quant.quantise(name, values)
    assert packed.nbytes == quant.TYPES[name].nbytes(values.shape)
    found = quant.dequantise(name, packed, values.shape)
    largest = np.abs(values.reshape(-1, 32)).max(axis=1).max()
    allowed = {"F32": 0.0, "F16": 1e-3, "Q8_0": 1 / 250, "Q4_0": 1 / 7}[name] * largest
    assert np.abs(found - values).max() <= allowed


@pytest.mark.parametrize("name", ["F16", "Q8_0", "Q4_0"])
def test_quantised_bytes_equal_the_reference_implementation(name: str) -> None:
    gguf = pytest.importorskip("gguf")
    rng = np.random.default_rng(2)
    values = rng.normal(size=(40, 320)).astype(np.float32)
    values[:4] = np.round(values[:4]) / 2  # ties
    expected = gguf.quantize(values, gguf.GGMLQuantizationType[name])
    found = quant.quantise(name, values)
    np.testing.assert_array_equal(found, expected.reshape(-1).view(np.uint8))


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=32, max_size=32))
@settings(max_examples=200)
def test_q8_0_is_within_half_a_step_and_the_scale_is_rounded_once(values: list[float]) -> None:
    given_values = np.array([values], np.float32)
    found = quant.dequantise("Q8_0", quant.quantise("Q8_0", given_values), (1, 32))
    step = np.abs(given_values).max() / 127
    # The half-precision scale is off by up to 2**-11, or a subnormal's spacing.
    slack = 127 * max(step * 2**-11, 2.0**-24)
    assert np.abs(found - given_values).max() <= step / 2 * 1.001 + slack


def test_what_cannot_be_quantised_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="Q4_K"):
        quant.quantise("Q4_K", np.zeros((1, 256), np.float32))
    with pytest.raises(UnsupportedError, match="multiple of 32"):
        quant.quantise("Q8_0", np.zeros((4, 31), np.float32))


@pytest.mark.parametrize("name", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q6_K"])
def test_common_types_dequantise_at_200_megabytes_a_second(name: str) -> None:
    kind = quant.TYPES[name]
    raw = random_blocks(name, (1 << 21) // kind.values)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        quant.dequantise(name, raw, (1 << 21,))
        seconds.append(time.process_time() - start)
    assert (4 << 21) / min(seconds) > 200e6
