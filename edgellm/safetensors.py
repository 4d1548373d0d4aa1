"""safetensors files, and folders that hold a model's in several: read by memory map, and written.

Strict: the header's tensors must cover the rest of the file, one after the other, without a hole or
an overlap. Names are the file's own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgellm import atomic_file, json_file, quant
from edgellm.errors import FormatError, UnsupportedError
from edgellm.tensor import MappedTensor, map_file

MAX_HEADER = 4 << 20
MAX_INDEX = 4 << 20
MAX_TENSORS = 1 << 14
MAX_DIMENSIONS = 8
MAX_NAME = 512

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")
"""The format's names, which are `edgellm.quant`'s as well."""


def read(path: str | Path) -> dict[str, MappedTensor]:
    """The tensors of one file.

    Raises FormatError, UnsupportedError for types that aren't read, UsageError where the file can't
    be opened.
    """
    return read_with_notes(path)[0]


def read_with_notes(path: str | Path) -> tuple[dict[str, MappedTensor], dict[str, str]]:
    """The tensors of one file, and the texts that its header has beside them. Raises as `read`."""
    path = Path(path)
    data = map_file(path, least=10)
    length = int.from_bytes(data[:8], "little")
    most = min(len(data) - 8, MAX_HEADER)
    if not 2 <= length <= most:
        raise FormatError(path, "header length", length, f"2 to {most} is allowed")
    raw = data[8 : 8 + length]
    if raw[:1] != b"{":
        raise FormatError(path, "header", raw[:8], "it must begin with '{'")
    header = json_file.parse(raw, path)
    notes = header.pop("__metadata__", None) or {}
    if not isinstance(notes, dict) or not all(isinstance(text, str) for text in notes.values()):
        raise FormatError(path, "__metadata__", notes, "it must be an object of strings")
    if len(header) > MAX_TENSORS:
        raise FormatError(path, "number of tensors", len(header), f"{MAX_TENSORS} is the limit")
    view = memoryview(data)[8 + length :]
    found: list[tuple[int, int, MappedTensor]] = []
    for name, entry in header.items():
        kind, shape, begin, end = _entry(path, name, entry, len(view))
        found.append((begin, end, MappedTensor(name, shape, kind, view[begin:end])))
    covered = 0
    for begin, end, tensor in sorted(found, key=lambda item: item[:2]):
        if begin != covered:
            field = f"data_offsets of {tensor.name}"
            raise FormatError(path, field, [begin, end], f"the next tensor must begin at {covered}")
        covered = end
    if covered != len(view):
        allowed = f"the tensors must fill the file's {len(view)} bytes of data"
        raise FormatError(path, "end of the last tensor", covered, allowed)
    return {tensor.name: tensor for _, _, tensor in found}, notes


def write(
    path: str | Path, tensors: Mapping[str, NDArray[np.float32]], notes: Mapping[str, str]
) -> None:
    """Write a file of float32 tensors, with `notes` in its header; it appears under its name only
    when it is complete. Raises OSError."""
    header: dict[str, object] = {"__metadata__": dict(notes)}
    end = 0
    for name, values in tensors.items():
        begin, end = end, end + 4 * values.size
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with atomic_file.writing(Path(path)) as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for values in tensors.values():
            file.write(np.ascontiguousarray(values, "<f4").data)


def _entry(
    path: Path, name: str, entry: object, size: int
) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape, begin and end of a tensor, all checked."""
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise FormatError(path, "name of a tensor", name, f"1 to {MAX_NAME} printable characters")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        allowed = "it must hold dtype, shape and data_offsets"
        raise FormatError(path, f"entry of {name}", entry, allowed)
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        allowed = f"readable are {', '.join(DTYPES)}"
        raise UnsupportedError(path, f"dtype of {name}", kind, allowed)
    if not _counts(shape) or len(shape) > MAX_DIMENSIONS:
        allowed = f"it must list up to {MAX_DIMENSIONS} sizes"
        raise FormatError(path, f"shape of {name}", shape, allowed)
    if not _counts(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= size:
        allowed = f"it must be a begin and an end within {size} bytes"
        raise FormatError(path, f"data_offsets of {name}", offsets, allowed)
    begin, end = offsets
    if quant.TYPES[kind].block_bytes * math.prod(shape) != end - begin:
        allowed = f"{kind} of that shape doesn't take {end - begin} bytes"
        raise FormatError(path, f"shape of {name}", shape, allowed)
    return kind, tuple(shape), begin, end


def _counts(value: object) -> bool:
    """Whether it is a list of integers from 0 on; a bool is none."""
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def read_folder(folder: str | Path) -> dict[str, MappedTensor]:
    """The tensors of a model folder: those its index names, else those of model.safetensors.

    Raises FormatError, UnsupportedError, UsageError.
    """
    folder = Path(folder)
    index = folder / INDEX
    if not index.exists():
        single = folder / SINGLE
        if single.exists():
            return read(single)
        raise FormatError(folder, SINGLE, "missing", f"a model folder has it, or {INDEX}")
    places = json_file.read(index, MAX_INDEX).get("weight_map")
    if not isinstance(places, dict) or not 1 <= len(places) <= MAX_TENSORS:
        allowed = f"it must give the files of 1 to {MAX_TENSORS} tensors"
        raise FormatError(index, "weight_map", places, allowed)
    parts: dict[str, dict[str, MappedTensor]] = {}
    tensors: dict[str, MappedTensor] = {}
    for name, part in places.items():
        if not isinstance(part, str) or not _plain_file_name(part):
            allowed = "it must be a .safetensors file in the same folder"
            raise FormatError(index, f"file of {name!r}", part, allowed)
        if part not in parts:
            if not (folder / part).is_file():
                raise FormatError(index, f"file of {name!r}", part, "that file isn't there")
            parts[part] = read(folder / part)
        if name not in parts[part]:
            raise FormatError(index, f"file of {name!r}", part, "it doesn't hold that tensor")
        tensors[name] = parts[part][name]
    return tensors


def _plain_file_name(name: str) -> bool:
    return name.endswith(".safetensors") and name.isprintable() and not set(name) & set("/\\:")
