"""Bundles: a model compiled and packed for one kind of processor, in a file that is used in place.

  header      64 bytes: see `Header`; zeros up to 64 KiB
  blobs       compiled code, packed weights, the vocabulary; each at a multiple of 64 KiB
  manifest    msgpack (`edgellm.manifest`): what the blobs are, with the SHA-256 of each
  signatures  msgpack: of the header, which has the SHA-256 of the manifest
  SHA-256 of the signatures

Opening one needs neither tinygrad nor a compiler. Nothing of the file is believed before its
signatures are checked, nor used before its hash is.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgpack
import numpy as np
from numpy.typing import NDArray

from edgellm import checkpoint, key_folder, manifest, packing, signing, tokenizer_blob
from edgellm.blob_hashes import BlobHashes
from edgellm.errors import FormatError, TrustError, UnsupportedError, UsageError
from edgellm.executor import Target
from edgellm.graph import StepGraph
from edgellm.key_folder import KeyFolder, PublicKey
from edgellm.manifest import ALIGNMENT, Blob, Built, Manifest, Placed, Source
from edgellm.signing import Signature

MAGIC = b"EDGE\r\n\x1a\n"
"""Line ends and an end-of-file mark, so that a transfer as text shows."""
VERSION = 1
TOKENIZER, SMALL = "tokenizer", "small tensors"
"""Names of blobs."""
MAX_SIGNATURES = 1 << 16
HASH_BYTES = 32


@dataclass(frozen=True)
class Header:
    """The file's first 64 bytes, little-endian; the signatures are of them."""

    manifest_offset: int
    manifest_nbytes: int
    manifest_sha256: bytes
    version: int = VERSION

    LAYOUT = struct.Struct("<8sII QQ 32s")

    def pack(self) -> bytes:
        return self.LAYOUT.pack(
            MAGIC,
            self.version,
            0,
            self.manifest_offset,
            self.manifest_nbytes,
            self.manifest_sha256,
        )


@dataclass(frozen=True)
class PackedTensor:
    """A tensor of a bundle, as kernels read it."""

    name: str
    type: str
    """In the file that the bundle was built from."""
    shape: tuple[int, ...]
    format: str
    """As it is packed; `edgellm.manifest.PLAIN`: float32, row-major."""
    rows: int
    columns: int
    data: memoryview
    """Within the map of the file; read-only."""
    note: str = ""
    """What packing has lost, if anything."""

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    @property
    def address(self) -> int:
        """Of the first byte, while the bundle is open."""
        return int(np.frombuffer(self.data, np.uint8).ctypes.data)

    def float32(self) -> NDArray[np.float32]:
        """The exact values, of `shape`; read-only where the file holds them as they are."""
        if self.format == manifest.PLAIN:
            values = np.frombuffer(self.data, "<f4")
        else:
            values = packing.unpack(self.data, self.format, self.rows, self.columns)
        return values.reshape(self.shape)


@dataclass(frozen=True, kw_only=True)
class Bundle(checkpoint.ModelFile):
    """A bundle opened: everything in it has been checked against the signed hashes."""

    tensors: Mapping[str, PackedTensor]
    step: StepGraph | None
    """None where the backend follows the configuration by itself."""
    backend: str
    target: Target
    source: Source
    built: Built
    voucher: str
    """The trusted key that signed it; "local": built on this machine; "": nobody is trusted."""
    signers: Sequence[PublicKey]
    """Whose signatures were checked: with `inspect` all, else those that had to be."""
    blobs: Mapping[str, memoryview]

    @property
    def graph(self) -> StepGraph:
        """The step. Raises FormatError where the bundle has none."""
        if self.step is None:
            raise FormatError(self.path, "graph", "missing", "the backend needs it")
        return self.step

    def blob(self, name: str) -> memoryview:
        """A part that the backend has put there. Raises FormatError where there is none."""
        if name not in self.blobs:
            raise FormatError(self.path, f"blob {name!r}", "missing", "the backend needs it")
        return self.blobs[name]


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as bundles do; False where it can't be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def open(
    path: str | os.PathLike[str], keys: KeyFolder | None = None, *, inspect: bool = False
) -> Bundle:
    """Open a bundle that this machine or a key of `keys` (the user's) has signed, and check all of
    it. With `inspect` it may be by anybody, but its code must not be run unless it has a `voucher`.

    Raises TrustError where nobody trusted has signed it, FormatError where it is damaged,
    UnsupportedError for another version of the format, UsageError where it can't be read.
    """
    file = str(path)
    mapped = _map(Path(path))
    data = memoryview(mapped)
    header, raw, signatures = _frame(data, file)
    trusted = KeyFolder() if keys is None else keys
    voucher = signing.own(header.pack(), signatures, trusted, file)
    # What this machine has built itself needs nobody else's signature.
    signers = [] if voucher and not inspect else signing.signers(header.pack(), signatures, file)
    if not voucher:
        try:
            voucher = signing.vouch(signatures, signers, trusted, file)
        except TrustError:
            if not inspect:
                raise
    content = manifest.unpacked(raw, file)
    placed = manifest.blobs(content, file, header.manifest_offset)
    blobs = {blob.name: data[blob.offset : blob.offset + blob.nbytes] for blob in placed}
    if TOKENIZER not in blobs:
        raise FormatError(file, "tokenizer", "missing", "a model needs its vocabulary")
    with BlobHashes(blobs, placed, file) as hashes:
        _check_padding(data, placed, file)
        found, graph = manifest.whole(content, placed, file)
        hashes.require(TOKENIZER)
        vocabulary = tokenizer_blob.read(blobs[TOKENIZER], file)
    _forget_read(mapped, placed)
    return Bundle(
        path=file,
        tokenizer=vocabulary,
        template=found.template,
        provenance=found.provenance,
        sampling=found.sampling,
        format="edge",
        config=found.config,
        tensors=_tensors(found, list(blobs.values())),
        step=graph,
        backend=found.backend,
        target=found.target,
        source=found.source,
        built=found.built,
        voucher=voucher,
        signers=signers,
        blobs=blobs,
    )


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """What a bundle says of itself, whoever has signed it; its blobs aren't looked at. Raises as
    `open` does."""
    header, raw, _ = _frame(memoryview(_map(Path(path))), str(path))
    return manifest.read(raw, str(path), header.manifest_offset)[0]


def signers(path: str | os.PathLike[str]) -> list[PublicKey]:
    """The keys that have signed a bundle, whether they are trusted or not. Raises as `open`, and
    UsageError where `cryptography` isn't installed."""
    if not key_folder.can_check():
        raise UsageError(f"{path}: checking signatures needs cryptography; {key_folder.REMEDY}")
    header, _, signatures = _frame(memoryview(_map(Path(path))), str(path))
    return signing.signers(header.pack(), signatures, path)


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size < ALIGNMENT:
                raise FormatError(path, "size", size, f"a bundle has {ALIGNMENT} bytes at least")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    with contextlib.suppress(AttributeError, OSError):  # only a hint
        data.madvise(mmap.MADV_WILLNEED)
    return data


def _forget_read(mapped: mmap.mmap, blobs: Sequence[Blob]) -> None:
    """Give back the memory of what isn't read again soon, the vocabulary and the space between
    blobs; it is still there to be read."""
    for blob in blobs:
        end = blob.offset + blob.nbytes
        begin = blob.offset if blob.name == TOKENIZER else -(-end // mmap.PAGESIZE) * mmap.PAGESIZE
        if begin < (after := manifest.aligned(end)):
            with contextlib.suppress(AttributeError, OSError):  # only a hint
                mapped.madvise(mmap.MADV_DONTNEED, begin, after - begin)


def _frame(data: memoryview, file: str) -> tuple[Header, bytes, list[Signature]]:
    """Header, manifest and signatures, which fill the file but for the blobs."""
    length = Header.LAYOUT.size
    magic, version, reserved, offset, nbytes, sha256 = Header.LAYOUT.unpack(data[:length])
    if magic != MAGIC:
        raise FormatError(file, "first bytes", magic, f"a bundle begins with {MAGIC!r}")
    if version != VERSION:
        remedy = f"this edgellm reads version {VERSION}; build the bundle anew"
        raise UnsupportedError(file, "bundle version", version, remedy)
    if reserved or not _is_zero(data[length:ALIGNMENT]):
        raise FormatError(file, "header", "not zero where it must be", "the file is damaged")
    size, end = data.nbytes, offset + nbytes
    if not ALIGNMENT <= offset <= end <= size - HASH_BYTES or nbytes > manifest.MAX_BYTES:
        raise FormatError(file, "manifest's place", (offset, nbytes), f"the file has {size} bytes")
    if offset % ALIGNMENT or size - end > MAX_SIGNATURES:
        raise FormatError(file, "manifest's place", (offset, nbytes), "the file is damaged")
    signed = bytes(data[end : size - HASH_BYTES])
    if hashlib.sha256(signed).digest() != bytes(data[size - HASH_BYTES :]):
        raise FormatError(file, "signatures", "not those of their hash", "the file is damaged")
    raw = bytes(data[offset:end])
    if hashlib.sha256(raw).digest() != sha256:
        raise FormatError(file, "manifest", "not that of its hash", "the file is damaged")
    return Header(offset, nbytes, sha256), raw, _read_signatures(signed, file)


def pack_signatures(signatures: Sequence[Signature]) -> bytes:
    """The end of a bundle."""
    packed: bytes = msgpack.packb(
        [[one.scheme, one.key, one.value, one.name] for one in signatures]
    )
    return packed + hashlib.sha256(packed).digest()


def _read_signatures(raw: bytes, file: str) -> list[Signature]:
    allowed = "scheme, key, signature and name of each are needed"
    try:
        found = msgpack.unpackb(raw, max_array_len=64, max_map_len=0)
    except (ValueError, msgpack.UnpackException) as error:
        raise FormatError(file, "signatures", type(error).__name__, allowed) from error
    if type(found) is not list:
        raise FormatError(file, "signatures", found, allowed)
    signatures = []
    for each in found:
        match each:
            case [("ed25519" | "local") as scheme, bytes(key), bytes(value), str(name)]:
                signatures.append(Signature(scheme, key, value, name))
            case _:
                raise FormatError(file, "signature", each, allowed)
    return signatures


def _tensors(found: Manifest, blobs: Sequence[memoryview]) -> dict[str, PackedTensor]:
    def opened(placed: Placed) -> PackedTensor:
        data = blobs[placed.blob][placed.offset : placed.offset + placed.nbytes]
        return PackedTensor(
            placed.name,
            placed.type,
            placed.shape,
            placed.format,
            placed.rows,
            placed.columns,
            data,
            placed.note,
        )

    return {placed.name: opened(placed) for placed in found.tensors}


def _is_zero(data: memoryview) -> bool:
    return bytes(data) == bytes(data.nbytes)


def _check_padding(data: memoryview, blobs: Sequence[Blob], file: str) -> None:
    for blob in blobs:
        end = blob.offset + blob.nbytes
        if not _is_zero(data[end : manifest.aligned(end)]):
            raise FormatError(file, f"space after {blob.name}", "not zero", "the file is damaged")
