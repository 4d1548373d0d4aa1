"""GGUF files, versions 2 and 3: read through a memory map, and written.

A file is hostile until read: every count, length, offset and type is checked against the file's
size before anything is allocated for it. Little-endian only. A model split into several files
(`…-00001-of-00003.gguf`) is read whole, whichever of its parts is named.
"""

from __future__ import annotations

import math
import re
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgellm import atomic_file, quant
from edgellm.errors import FormatError, UnsupportedError
from edgellm.gguf import values
from edgellm.gguf.values import ARRAY, BOOL, SCALARS, STRING
from edgellm.tensor import MappedTensor, map_file

MAGIC = b"GGUF"
ALIGNMENT = 32
"""Where `general.alignment` says nothing else."""

# Limits far above any real model, so that a small file can't ask for much time or memory.
MAX_HEADER = 64 << 20
MAX_KEYS = 1 << 16
MAX_KEY = 1 << 16
MAX_STRINGS = 1 << 20
ROOM = 56 << 20
"""Strings and lists may take this much more memory than the file has bytes."""
LIST = 200
"""Bytes of an array within an array, at least."""
MAX_TENSORS = 1 << 14
MAX_TENSOR_NAME = 255
MAX_DIMENSIONS = 4
MAX_NESTING = 4
MAX_PARTS = 1024


@dataclass(frozen=True)
class GGUFFile:
    path: str
    version: int
    metadata: dict[str, object]
    """int, float, bool, str; arrays of numbers as NumPy arrays, other arrays as lists.

    Bytes that aren't UTF-8 are U+FFFD in a string, and surrogate escapes in an array's strings, so
    that a vocabulary's odd tokens stay distinct and can be turned back into their bytes.
    """
    tensors: dict[str, MappedTensor]
    parts: tuple[str, ...]
    """The files read: one, or all parts of a split model."""


def read(path: str | Path) -> GGUFFile:
    """Open a GGUF file, or all parts of a split one.

    Raises FormatError for a broken file, UnsupportedError for one that edgellm can't read,
    UsageError where the file can't be opened.
    """
    file = _Reader(Path(path)).file()
    count = file.metadata.get("split.count", 1)
    return file if isinstance(count, int) and count < 2 else _gather(file, count)


def _gather(opened: GGUFFile, count: object) -> GGUFFile:
    """All parts of the split model to which the opened one belongs."""
    path = Path(opened.path)
    if not isinstance(count, int) or not 1 < count <= MAX_PARTS:
        raise FormatError(path, "split.count", count, f"it must be 1 to {MAX_PARTS}")
    match = re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\.gguf", path.name, re.DOTALL)
    if match is None or int(match[2]) != count:
        pattern = f"a part must be named …-00001-of-{count:05}.gguf"
        raise FormatError(path, "file name", path.name, pattern)
    parts: list[GGUFFile] = []
    tensors: dict[str, MappedTensor] = {}
    for number in range(count):
        part_path = path.with_name(f"{match[1]}-{number + 1:05}-of-{count:05}.gguf")
        if not part_path.is_file():
            raise FormatError(path, "split.count", count, f"but {part_path.name} isn't beside it")
        part = opened if part_path == path else _Reader(part_path).file()
        for key, expected in (("split.no", number), ("split.count", count)):
            if part.metadata.get(key) != expected:
                value = part.metadata.get(key)
                raise FormatError(part_path, key, value, f"it must be {expected}")
        for name, tensor in part.tensors.items():
            if name in tensors:
                raise FormatError(part_path, "tensor", name, "an earlier part has it already")
            tensors[name] = tensor
        parts.append(part)
    first = parts[0]
    total = first.metadata.get("split.tensors.count", len(tensors))
    if total != len(tensors):
        raise FormatError(path, "split.tensors.count", total, f"the parts hold {len(tensors)}")
    paths = tuple(part.path for part in parts)
    return GGUFFile(first.path, first.version, first.metadata, tensors, paths)


class _Reader:
    """Reads one file from front to back; `at` never passes `end`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = map_file(path, least=24)
        self.size = len(self.data)
        self.at = 0
        self.end = min(self.size, MAX_HEADER)
        self.strings = 0
        self.room = self.size + ROOM

    def file(self) -> GGUFFile:
        magic = self.take(4, "magic")
        if magic != MAGIC:
            raise FormatError(self.path, "magic", magic, "a GGUF file begins with 'GGUF'")
        version = self.number("<I", "version")
        if version in (2 << 24, 3 << 24):
            message = "the file is big-endian, convert it to little-endian"
            raise UnsupportedError(self.path, "version", version, message)
        if version not in (2, 3):
            raise UnsupportedError(self.path, "version", version, "versions 2 and 3 are read")
        tensor_count = self.count("<Q", "tensor count", 24, MAX_TENSORS)
        metadata = self.metadata(self.count("<Q", "key count", 13, MAX_KEYS))
        alignment = metadata.get("general.alignment", ALIGNMENT)
        power = isinstance(alignment, int) and alignment & (alignment - 1) == 0
        if not isinstance(alignment, int) or not power or not 1 <= alignment <= 1 << 20:
            allowed = "it must be a power of two up to 1048576"
            raise FormatError(self.path, "general.alignment", alignment, allowed)
        tensors = self.tensors(tensor_count, alignment)
        path = str(self.path)
        return GGUFFile(path, version, metadata, tensors, (path,))

    def take(self, length: int, field: str) -> bytes:
        if length > self.end - self.at:
            where = "the header" if self.end < self.size else "the file"
            allowed = f"{self.end - self.at} bytes of {where} are left"
            raise FormatError(self.path, f"length of {field}", length, allowed)
        self.at += length
        return self.data[self.at - length : self.at]

    def number(self, code: str, field: str) -> int:
        return int(struct.unpack(code, self.take(struct.calcsize(code), field))[0])

    def count(self, code: str, field: str, least: int, most: int) -> int:
        """A number of things that take at least `least` bytes each."""
        count = self.number(code, field)
        room = min(most, (self.end - self.at) // least)
        if count > room:
            limit = "the limit" if room == most else "what fits into the file"
            raise FormatError(self.path, field, count, f"{room} is {limit}")
        return count

    def name(self, field: str, most: int) -> str:
        """A key or a tensor's name: printable UTF-8."""
        length = self.number("<Q", f"length of {field}")
        if not 1 <= length <= most:
            raise FormatError(self.path, f"length of {field}", length, f"1 to {most} is allowed")
        raw = self.take(length, field)
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            raise FormatError(self.path, field, raw, "it must be UTF-8") from None
        if not name.isprintable():
            raise FormatError(self.path, field, name, "it must be printable")
        return name

    def metadata(self, count: int) -> dict[str, object]:
        found: dict[str, object] = {}
        for i in range(count):
            key = self.name(f"key {i}", MAX_KEY)
            if key in found:
                raise FormatError(self.path, f"key {i}", key, "an earlier one has the same name")
            found[key] = self.value(self.number("<I", f"type of {key}"), key, 0)
        return found

    def value(self, kind: int, key: str, depth: int) -> object:
        if kind == STRING:
            length = self.number("<Q", f"length of {key}")
            self.take_room(4 * min(length, self.size), key)
            return self.take(length, key).decode(errors="replace")
        if kind == ARRAY:
            return self.array(key, depth)
        dtype = self.scalar(kind, key)
        raw = self.take(dtype.itemsize, key)
        if kind == BOOL and raw[0] > 1:
            raise FormatError(self.path, key, raw[0], "a bool is 0 or 1")
        return np.frombuffer(raw, dtype=dtype)[0].item()

    def scalar(self, kind: int, key: str) -> np.dtype[np.generic]:
        if kind not in SCALARS:
            raise FormatError(self.path, f"type of {key}", kind, "0 to 12 are defined")
        return np.dtype(SCALARS[kind])

    def array(self, key: str, depth: int) -> object:
        kind = self.number("<I", f"item type of {key}")
        field = f"length of {key}"
        if kind == STRING:
            return self.string_array(key, self.count("<Q", field, 8, MAX_STRINGS - self.strings))
        if kind == ARRAY:
            if depth == MAX_NESTING:
                allowed = f"up to {MAX_NESTING} are allowed"
                raise FormatError(self.path, f"nesting of {key}", depth + 1, allowed)
            count = self.count("<Q", field, 12, MAX_STRINGS - self.strings)
            self.strings += count
            self.take_room(LIST * count, key)
            return [self.array(key, depth + 1) for _ in range(count)]
        dtype = self.scalar(kind, key)
        count = self.count("<Q", field, dtype.itemsize, MAX_HEADER)
        start = self.at
        self.at += count * dtype.itemsize
        if kind == BOOL:
            return np.frombuffer(self.data, "u1", count, start) != 0
        return np.frombuffer(self.data, dtype, count, start)

    def string_array(self, key: str, count: int) -> list[str]:
        """Vocabularies have hundreds of thousands of strings: one tight loop."""
        self.strings += count
        data, at, end, room = self.data, self.at, self.end, self.room
        size_of = sys.getsizeof
        length_of = struct.Struct("<Q").unpack_from
        found: list[str] = []
        for _ in range(count):
            start = at + 8
            if start > end:
                raise FormatError(self.path, f"length of {key}", count, "the file ends within it")
            at = start + length_of(data, at)[0]
            if at > end:
                field = f"length of item {len(found)} of {key}"
                raise FormatError(self.path, field, at - start, f"{end - start} bytes are left")
            text = data[start:at].decode("utf-8", "surrogateescape")
            room -= size_of(text) + 8
            if room < 0:
                self.take_room(self.room + 1, key)
            found.append(text)
        self.at, self.room = at, room
        return found

    def take_room(self, size: int, key: str) -> None:
        """Account for `size` bytes of memory."""
        if size > self.room:
            most = self.size + ROOM
            allowed = f"strings and lists may take {most} bytes of memory"
            raise FormatError(self.path, key, "too large", allowed)
        self.room -= size

    def tensors(self, count: int, alignment: int) -> dict[str, MappedTensor]:
        headers: dict[str, tuple[quant.TensorType, tuple[int, ...], int]] = {}
        for i in range(count):
            name = self.name(f"name of tensor {i}", MAX_TENSOR_NAME)
            if name in headers:
                allowed = "an earlier one has the same name"
                raise FormatError(self.path, f"name of tensor {i}", name, allowed)
            headers[name] = self.tensor(name, alignment)
        base = _padded(self.at, alignment)
        view = memoryview(self.data)
        tensors: dict[str, MappedTensor] = {}
        for name, (kind, shape, offset) in headers.items():
            start = base + offset
            nbytes = kind.nbytes(shape)
            if start + nbytes > self.size:
                allowed = f"its {nbytes} bytes end behind the file's {self.size}"
                raise FormatError(self.path, f"offset of {name}", offset, allowed)
            tensors[name] = MappedTensor(name, shape, kind.name, view[start : start + nbytes])
        free = 0
        for name, (kind, shape, offset) in sorted(headers.items(), key=lambda item: item[1][2]):
            if offset < free:
                raise FormatError(self.path, f"offset of {name}", offset, "it overlaps another")
            free = offset + kind.nbytes(shape)
        return tensors

    def tensor(self, name: str, alignment: int) -> tuple[quant.TensorType, tuple[int, ...], int]:
        """Type, row-major shape and offset of the tensor whose header comes next."""
        rank = self.number("<I", f"rank of {name}")
        if rank > MAX_DIMENSIONS:
            allowed = f"up to {MAX_DIMENSIONS} dimensions are allowed"
            raise FormatError(self.path, f"rank of {name}", rank, allowed)
        dimensions = struct.unpack(f"<{rank}Q", self.take(8 * rank, f"shape of {name}"))
        kind_id = self.number("<I", f"type of {name}")
        offset = self.number("<Q", f"offset of {name}")
        if kind_id not in quant.BY_ID:
            kind_name = quant.REFUSED.get(kind_id, kind_id)
            allowed = f"readable are {', '.join(kind.name for kind in quant.BY_ID.values())}"
            raise UnsupportedError(self.path, f"type of {name}", kind_name, allowed)
        kind = quant.BY_ID[kind_id]
        shape = dimensions[::-1]
        # A block of 256 values takes more than 32 bytes, so this bounds the product by the file.
        if 0 in shape or math.prod(shape) > self.size * 8:
            allowed = "its dimensions must be positive and fit into the file"
            raise FormatError(self.path, f"shape of {name}", shape, allowed)
        if (shape[-1] if shape else 1) % kind.values:
            allowed = f"{kind.name} needs rows of a multiple of {kind.values}"
            raise FormatError(self.path, f"shape of {name}", shape, allowed)
        if offset % alignment:
            allowed = f"it must be a multiple of {alignment}"
            raise FormatError(self.path, f"offset of {name}", offset, allowed)
        return kind, shape, offset


class Blocks(Protocol):
    """A tensor as it stands in a file, such as a MappedTensor."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def type(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def data(self) -> memoryview: ...


def write(
    path: str | Path,
    metadata: Mapping[str, object],
    tensors: Mapping[str, NDArray[np.generic] | Blocks],
) -> None:
    """Write a GGUF file, version 3; it appears under its name only when it is complete.

    Python's ints become uint32 where they fit, else int32, uint64 or int64, floats float32; NumPy's
    scalars and arrays keep their type. So do arrays among the tensors; of others, `data` is asked
    for when its turn comes. Raises UnsupportedError for what the format can't hold, OSError.
    """
    path = Path(path)
    stored = [
        _plain_tensor(path, name, tensor) if isinstance(tensor, np.ndarray | np.generic) else tensor
        for name, tensor in tensors.items()
    ]
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise UnsupportedError(path, "general.alignment", alignment, "it must be a power of two")
    header = [MAGIC, struct.pack("<IQQ", 3, len(stored), len(metadata))]
    for key, value in metadata.items():
        kind, encoded = values.encode(path, key, value)
        header += [values.string(key), struct.pack("<I", kind), encoded]
    offset = 0
    for name, tensor in zip(tensors, stored, strict=True):
        rank, kind_id = len(tensor.shape), quant.TYPES[tensor.type].id
        if kind_id is None or rank > MAX_DIMENSIONS:
            what = f"{tensor.type} of {rank} dimensions"
            raise UnsupportedError(path, f"type of {name}", what, "GGUF can't hold that")
        layout = struct.pack(f"<I{rank}QIQ", rank, *tensor.shape[::-1], kind_id, offset)
        header += [values.string(name), layout]
        offset += _padded(tensor.nbytes, alignment)
    begin = b"".join(header)
    with atomic_file.writing(path) as file:
        file.write(begin.ljust(_padded(len(begin), alignment), b"\0"))
        for tensor in stored:
            file.write(tensor.data)
            file.write(bytes(_padded(tensor.nbytes, alignment) - tensor.nbytes))


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _plain_tensor(path: Path, name: str, values: NDArray[np.generic]) -> MappedTensor:
    for kind in quant.BY_ID.values():
        if kind.dtype.names == ("x",) and kind.dtype["x"] == values.dtype and kind.name != "BF16":
            data = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
            return MappedTensor(name, values.shape, kind.name, data)
    raise UnsupportedError(path, f"type of {name}", values.dtype.name, "GGUF has no such type")
