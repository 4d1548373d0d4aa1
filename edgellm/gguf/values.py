"""The types of GGUF's metadata values, and how Python's become bytes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from edgellm.errors import UnsupportedError

BOOL, STRING, ARRAY = 7, 8, 9
SCALARS: dict[int, str] = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
"""GGUF's numbers of value types, as NumPy spells them."""


def string(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(encoded)) + encoded


def encode(path: Path, key: str, value: object) -> tuple[int, bytes]:
    """A value's type number and bytes."""
    if isinstance(value, str):
        return STRING, string(value)
    if isinstance(value, list | tuple):
        return ARRAY, _list(path, key, value)
    if isinstance(value, bool):
        value = np.bool_(value)
    elif isinstance(value, int):
        fitting = (t for t in _INTEGERS if np.iinfo(t).min <= value <= np.iinfo(t).max)
        value = next((t(value) for t in fitting), value)
    elif isinstance(value, float) and not isinstance(value, np.generic):
        value = np.float32(value)
    numbers = {np.dtype(code): number for number, code in SCALARS.items()}
    if not isinstance(value, np.generic | np.ndarray) or value.dtype not in numbers:
        raise UnsupportedError(path, key, value, "GGUF can't hold a value of that type")
    number, raw = numbers[value.dtype], value.astype(value.dtype.newbyteorder("<")).tobytes()
    if isinstance(value, np.ndarray):
        return ARRAY, struct.pack("<IQ", number, value.size) + raw
    return number, raw


_INTEGERS = (np.uint32, np.int32, np.uint64, np.int64)


def _list(path: Path, key: str, items: list[object] | tuple[object, ...]) -> bytes:
    """An array's bytes. Numbers take the type that holds them all, 32 bits wide if it suffices."""
    if items and all(isinstance(item, str) for item in items):
        strings = [string(str(item)) for item in items]
        return struct.pack("<IQ", STRING, len(items)) + b"".join(strings)
    if items and all(isinstance(item, list | tuple | np.ndarray) for item in items):
        arrays = [encode(path, key, item)[1] for item in items]
        return struct.pack("<IQ", ARRAY, len(items)) + b"".join(arrays)
    try:
        numbers = np.array(items, dtype=None if items else np.int32)
    except (ValueError, OverflowError):
        raise UnsupportedError(path, key, items, "an array's items must be of one type") from None
    if numbers.dtype == np.int64 and np.array_equal(numbers, numbers.astype(np.int32)):
        numbers = numbers.astype(np.int32)
    if numbers.dtype == np.float64:
        numbers = numbers.astype(np.float32)
    return encode(path, key, numbers)[1]
