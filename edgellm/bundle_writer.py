"""Writes a bundle: blob after blob into a draft, which takes the file's name once it is whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from edgellm import bundle, manifest, packing, signing
from edgellm.errors import FitError, UsageError
from edgellm.graph import StepGraph
from edgellm.key_folder import KeyFolder
from edgellm.manifest import ALIGNMENT, PLAIN, Blob, Manifest, Placed, aligned
from edgellm.packing import Packed

if TYPE_CHECKING:
    from edgellm.checkpoint import StoredTensor

Bytes = bytes | bytearray | memoryview

DRAFT = ".edge-draft"
ABANDONED_S = 3600.0
"""A draft that hasn't grown for so long is nobody's."""
SMALL_BYTES = ALIGNMENT
"""Smaller tensors share a blob."""
SMALL_ALIGNMENT = 64


class BundleWriter:
    """A bundle in the making; use it in a `with` statement, which removes an unfinished draft.

    A backend's `build` calls `blob`, `tensor` and `graph`, the core the rest. Raises
    FitError where the disk is full, UsageError where the file can't be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}{DRAFT}")
        self.blobs: list[Blob] = []
        self.tensors: list[Placed] = []
        self.step: StepGraph | None = None
        self._small = bytearray()
        self._small_tensors: list[Placed] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(path.parent)
            self._file = self.draft.open("xb", buffering=0)
        except OSError as error:
            raise _failed(path, error) from error
        self._write(bytes(ALIGNMENT))

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._file.close()
        self.draft.unlink(missing_ok=True)

    def blob(self, name: str, data: Bytes) -> None:
        """Add a part of the backend's own, such as "library"."""
        view = memoryview(data).cast("B")
        offset = self._file.tell()
        self._write(view)
        self._write(bytes(aligned(offset + view.nbytes) - offset - view.nbytes))
        digest = hashlib.sha256(view).hexdigest()
        self.blobs.append(Blob(name, offset, view.nbytes, digest))

    def tensor(self, name: str, tensor: StoredTensor, format: str | None) -> None:
        """Add a matrix, packed in a format of `edgellm.packing.formats`, or with None a tensor of
        any shape as float32, row-major."""
        if format is None:
            values = np.ascontiguousarray(tensor.float32(), "<f4").reshape(-1)
            columns = tensor.shape[-1] if tensor.shape else 1
            packed = Packed(PLAIN, values.size // columns, columns, "")
            data = values.view(np.uint8).data
        else:
            data = np.empty(packing.packed_bytes(format, *tensor.shape), np.uint8).data
            packed = packing.pack_into(tensor, data, format)
        placed = Placed(
            name=name,
            type=tensor.type,
            format=packed.format,
            rows=packed.rows,
            columns=packed.columns,
            shape=tuple(tensor.shape) or (1,),
            blob=len(self.blobs),
            offset=0,
            nbytes=data.nbytes,
            note=packed.note,
        )
        if data.nbytes < SMALL_BYTES:
            self._small += bytes(aligned(len(self._small), SMALL_ALIGNMENT) - len(self._small))
            self._small_tensors.append(replace(placed, offset=len(self._small)))
            self._small += data
        else:
            self.blob(name, data)
            self.tensors.append(placed)

    def graph(self, graph: StepGraph) -> None:
        """Set the step's graph, whose weights are the tensors by name. A backend that follows the
        configuration by itself needs none."""
        self.step = graph

    def finish(self, described: Manifest, keys: KeyFolder, signer: str | None = None) -> None:
        """Write manifest (blobs and tensors are filled in here) and signatures, and put the file in
        its place."""
        if self._small:
            self.blob(bundle.SMALL, self._small)
            index = len(self.blobs) - 1
            self.tensors += [replace(tensor, blob=index) for tensor in self._small_tensors]
        whole = replace(described, blobs=tuple(self.blobs), tensors=tuple(self.tensors))
        raw = manifest.write(whole, self.step)
        header = bundle.Header(self._file.tell(), len(raw), hashlib.sha256(raw).digest()).pack()
        self._write(raw)
        self._write(bundle.pack_signatures(signing.sign(header, keys, signer)))
        try:
            self._file.seek(0)
            self._write(header)
            os.fsync(self._file.fileno())
            self._file.close()
            self.draft.replace(self.path)
        except OSError as error:
            raise _failed(self.path, error) from error

    def _write(self, data: Bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise _failed(self.path, error) from error


def _failed(path: Path, error: OSError) -> FitError | UsageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FitError(f"{path}: there is no room left on the disk; free some, or choose another")
    return UsageError(f"{path}: {error.strerror}")


def _remove_abandoned(folder: Path) -> None:
    """Remove drafts of processes that were killed while they wrote."""
    for draft in folder.glob(f".*{DRAFT}"):
        with contextlib.suppress(FileNotFoundError):  # another process removes it too
            if time.time() - draft.lstat().st_mtime > ABANDONED_S:
                draft.unlink()
