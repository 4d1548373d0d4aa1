"""What a bundle says of itself: the manifest, as msgpack, with everything in it checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack

from edgellm import graph_data, plain
from edgellm.checkpoint import Provenance
from edgellm.config import Config, Rope
from edgellm.errors import FormatError, UsageError
from edgellm.executor import Target
from edgellm.graph import StepGraph
from edgellm.keys import MAX_CONTEXT, MAX_LAYERS, MAX_WIDTH
from edgellm.packing import BLOCKS, packed_bytes
from edgellm.quant import TYPES
from edgellm.sampling import Sampling

MAX_BYTES = 16 << 20
MAX_ENTRIES = 1 << 15
"""Of one list. msgpack reserves room for as many before it reads them."""
MAX_DIMENSIONS = 4
ALIGNMENT = 64 << 10
"""Of blobs: the largest page of the processors that edgellm runs on."""
PLAIN = "plain"
"""The format of a tensor that isn't packed: float32, row-major."""


@dataclass(frozen=True)
class Blob:
    """A part of the file, hashed as a whole."""

    name: str
    offset: int
    """From the file's begin; a multiple of ALIGNMENT."""
    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Placed:
    """A tensor, and where it lies."""

    name: str
    type: str
    """In the file that it comes from: "Q4_K"."""
    format: str
    """As it is packed: a format of `edgellm.packing`, or PLAIN."""
    rows: int
    columns: int
    shape: tuple[int, ...]
    blob: int
    offset: int
    """In the blob."""
    nbytes: int
    note: str = ""
    """What packing has lost, if anything."""


@dataclass(frozen=True)
class Source:
    """The model file that a bundle was built from."""

    file: str
    """Its name, without folders."""
    nbytes: int
    sha256: str
    """Of a folder, over the hashes of its files in order of their names."""


@dataclass(frozen=True)
class Built:
    """Who built it, with what, when."""

    edgellm: str
    compiler: str
    date: str
    """ISO 8601, UTC."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All of it but the graph, which has its own form."""

    provenance: Provenance
    source: Source
    built: Built
    backend: str
    target: Target
    config: Config
    template: str | None
    sampling: Mapping[str, float] = field(default_factory=dict)
    blobs: tuple[Blob, ...]
    tensors: tuple[Placed, ...]


def write(manifest: Manifest, graph: StepGraph | None) -> bytes:
    """The manifest's bytes."""
    content = {**plain.plain(manifest), "graph": graph and graph_data.plain(graph)}
    raw: bytes = msgpack.packb(content, unicode_errors="surrogatepass")
    if len(raw) > MAX_BYTES:
        raise UsageError(f"the model's manifest has {len(raw)} bytes; up to {MAX_BYTES} fit")
    return raw


def read(raw: bytes, file: str, room: int) -> tuple[Manifest, StepGraph | None]:
    """The manifest in `raw` of a file that has `room` bytes before it.

    Raises FormatError, naming `file`, for whatever doesn't hold together.
    """
    content = unpacked(raw, file)
    return whole(content, blobs(content, file, room), file)


def unpacked(raw: bytes, file: str) -> dict[str, Any]:
    """The first step of `read`: the manifest's fields, of which nothing is checked."""
    try:
        content = msgpack.unpackb(
            raw,
            unicode_errors="surrogatepass",
            max_array_len=MAX_ENTRIES,
            max_map_len=MAX_ENTRIES,
        )
    except (ValueError, msgpack.UnpackException, MemoryError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise FormatError(file, "manifest", why, "well-formed msgpack is needed") from error
    if type(content) is not dict or "blobs" not in content:
        raise FormatError(file, "manifest", type(content).__name__, "a map with blobs is needed")
    return content


def blobs(content: dict[str, Any], file: str, room: int) -> tuple[Blob, ...]:
    """The second step: the file's parts, whose hashes can be checked meanwhile."""
    found: tuple[Blob, ...] = plain.read(tuple[Blob, ...], content["blobs"], file, "manifest.blobs")
    _check_blobs(found, file, room)
    return found


def whole(
    content: dict[str, Any], blobs: tuple[Blob, ...], file: str
) -> tuple[Manifest, StepGraph | None]:
    """The last step: everything, over these blobs."""
    graph = content.pop("graph", None)
    manifest = plain.read(Manifest, content, file, "manifest")
    check_config(manifest.config, file)
    try:
        Sampling(**manifest.sampling)  # type: ignore[arg-type]  # judged by Sampling itself
    except (UsageError, TypeError) as error:
        raise FormatError(file, "sampling", dict(manifest.sampling), str(error)) from error
    for tensor in manifest.tensors:
        _check_tensor(tensor, blobs, file)
    sizes = {tensor.name: tensor.nbytes for tensor in manifest.tensors}
    if len(sizes) < len(manifest.tensors):
        raise FormatError(file, "tensors", len(sizes), "each name must occur once")
    if graph is None:
        return manifest, None
    return manifest, graph_data.read(graph, file, manifest.config, sizes)


def _check_blobs(blobs: tuple[Blob, ...], file: str, room: int) -> None:
    """Blobs follow one another without gaps but for their alignment, and end at the manifest."""
    end = ALIGNMENT  # the header's
    for blob in blobs:
        if blob.offset != end or not 0 < blob.nbytes <= room - blob.offset:
            place = (blob.offset, blob.nbytes)
            raise FormatError(file, f"place of {blob.name}", place, f"{end} and on, below {room}")
        if len(blob.sha256) != 64:
            raise FormatError(file, f"hash of {blob.name}", blob.sha256, "64 digits are needed")
        end = aligned(blob.offset + blob.nbytes)
    if end != room:
        raise FormatError(file, "blobs' end", end, f"{room} is needed")
    if len({blob.name for blob in blobs}) < len(blobs):
        raise FormatError(file, "blobs", len(blobs), "each name must occur once")


def _check_tensor(tensor: Placed, blobs: tuple[Blob, ...], file: str) -> None:
    where = f"tensor {tensor.name}"
    if len(tensor.shape) > MAX_DIMENSIONS or not all(0 < size < 1 << 32 for size in tensor.shape):
        raise FormatError(file, f"shape of {where}", tensor.shape, "positive sizes are needed")
    if not 0 <= tensor.blob < len(blobs):
        raise FormatError(file, f"blob of {where}", tensor.blob, f"there are {len(blobs)}")
    blob = blobs[tensor.blob]
    if tensor.offset % 64 or not 0 <= tensor.offset <= blob.nbytes - tensor.nbytes:
        raise FormatError(file, f"place of {where}", tensor.offset, f"{blob.nbytes} are there")
    count = math.prod(tensor.shape)
    if not (tensor.rows > 0 and tensor.columns > 0 and tensor.rows * tensor.columns == count):
        raise FormatError(file, f"rows of {where}", tensor.rows, f"{tensor.shape} is the shape")
    if tensor.format == PLAIN:
        needed = 4 * count
    elif tensor.format not in BLOCKS or tensor.columns % TYPES[tensor.format].values:
        allowed = f"none of the formats that have {tensor.columns} columns"
        raise FormatError(file, f"format of {where}", tensor.format, allowed)
    else:
        needed = packed_bytes(tensor.format, tensor.rows, tensor.columns)
    if tensor.nbytes != needed:
        raise FormatError(file, f"size of {where}", tensor.nbytes, f"{needed} bytes are needed")


def check_config(config: Config, file: str) -> None:
    """Raise FormatError for numbers that no checkpoint's configuration has."""

    def within(name: str, value: float, low: float, high: float) -> None:
        if not low <= value <= high:
            allowed = f"{low} to {high} are allowed"
            raise FormatError(file, f"config.{name}", value, allowed)

    for name in ("vocab", "dim", "heads", "head_dim", "hidden"):
        within(name, getattr(config, name), 1, 16 * MAX_WIDTH)
    within("context", config.context, 1, MAX_CONTEXT)
    within("number of layers", len(config.layers), 1, MAX_LAYERS)
    within("number of ropes", len(config.ropes), 0, 2)
    within("conv_taps", config.conv_taps, 0, 64)
    within("norm_eps", config.norm_eps, 0, 1)
    if config.logit_scale == 0:
        raise FormatError(file, "config.logit_scale", 0, "the logits are divided by it")
    for rope in config.ropes:
        _check_rope(rope, config, file)
    for index, layer in enumerate(config.layers):
        within(f"layers[{index}].window", layer.window, 0, MAX_CONTEXT)
        if layer.rope is not None and config.ropes:
            within(f"layers[{index}].rope", layer.rope, 0, len(config.ropes) - 1)
        if layer.kind == "attention" and not (
            0 < layer.kv_heads <= config.heads and config.heads % layer.kv_heads == 0
        ):
            allowed = f"a divisor of {config.heads} is needed"
            raise FormatError(file, f"config.layers[{index}].kv_heads", layer.kv_heads, allowed)


def _check_rope(rope: Rope, config: Config, file: str) -> None:
    half = rope.dim // 2
    if not 2 <= rope.dim <= config.head_dim or rope.dim % 2:
        raise FormatError(file, "rope's dim", rope.dim, f"even, up to {config.head_dim}")
    for factors in (rope.factors, rope.long_factors):
        if len(factors) not in (0, half) or not all(factor > 0 for factor in factors):
            raise FormatError(file, "rope's factors", factors, f"{half} positive ones are needed")
    positive = [rope.theta, rope.scale]
    if rope.yarn is not None:
        yarn = rope.yarn
        positive += [yarn.factor, yarn.original_context, yarn.beta_fast, yarn.beta_slow]
    if min(positive) <= 0 or rope.original_context < 0 or (rope.yarn and rope.theta == 1):
        raise FormatError(file, "rope", positive, "positive numbers are needed")


def aligned(offset: int, alignment: int = ALIGNMENT) -> int:
    """The next multiple of `alignment`."""
    return -(-offset // alignment) * alignment
