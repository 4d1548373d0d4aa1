"""Writes a bundle: blob after blob into a draft, which takes the file's name once it is whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgellm import bundle, manifest, packing, signing
from edgellm.errors import FitError, UsageError
from edgellm.graph import StepGraph
from edgellm.key_folder import KeyFolder
from edgellm.manifest import ALIGNMENT, PLAIN, Blob, Manifest, Placed, aligned

if TYPE_CHECKING:
    from edgellm.checkpoint import StoredTensor
    from edgellm.executor import Progress

Bytes = bytes | bytearray | memoryview | NDArray[np.uint8]

SMALL_BYTES = ALIGNMENT
"""Smaller tensors share a blob."""
SMALL_ALIGNMENT = 64


class BundleWriter:
    """A bundle in the making; use it in a `with` statement, which removes an unfinished draft.

    A backend's `build` calls `blob`, `matrix`, `vector` and `graph`, the core the rest. Raises
    FitError where the disk is full, UsageError where the file can't be written.
    """

    def __init__(self, path: Path, progress: Progress | None = None, expected: int = 0) -> None:
        """`expected` bytes are what `progress` takes for the whole."""
        self.path, self.progress, self.expected = path, progress, expected
        self.draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
        self.blobs: list[Blob] = []
        self.tensors: list[Placed] = []
        self.step: StepGraph | None = None
        self._small = bytearray()
        self._small_tensors: list[Placed] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(path)
            self._file = self.draft.open("wb")
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
        with contextlib.suppress(OSError):  # what was buffered is given up
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
        if self.progress is not None:
            self.progress("packing", min(self._file.tell(), self.expected), self.expected)

    def matrix(self, tensor: StoredTensor) -> None:
        """Add a matrix, packed as `edgellm.packing.choose` says."""
        format, _ = packing.choose(tensor)
        rows, columns = tensor.shape
        data = np.empty(packing.packed_bytes(format, rows, columns), np.uint8)
        packed = packing.pack_into(tensor, data)
        self._tensor(tensor, packed.format, rows, columns, data, packed.note)

    def vector(self, tensor: StoredTensor) -> None:
        """Add a tensor of any shape as float32, row-major."""
        values = np.ascontiguousarray(tensor.float32(), "<f4")
        columns = tensor.shape[-1] if tensor.shape else 1
        data = values.reshape(-1).view(np.uint8)
        self._tensor(tensor, PLAIN, values.size // columns, columns, data, "")

    def graph(self, graph: StepGraph) -> None:
        """Set the step's graph, whose weights are the tensors by name."""
        self.step = graph

    def finish(self, described: Manifest, keys: KeyFolder, signer: str | None = None) -> None:
        """Write manifest (blobs and tensors are filled in here) and signatures, and put the file in
        its place."""
        if self.step is None:
            raise ValueError("a bundle without a graph")
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
            self._file.write(header)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self.draft.replace(self.path)
        except OSError as error:
            raise _failed(self.path, error) from error

    def _tensor(
        self,
        tensor: StoredTensor,
        format: str,
        rows: int,
        columns: int,
        data: NDArray[np.uint8],
        note: str,
    ) -> None:
        placed = Placed(
            name=tensor.name,
            type=tensor.type,
            format=format,
            rows=rows,
            columns=columns,
            shape=tuple(tensor.shape) or (1,),
            blob=len(self.blobs),
            offset=0,
            nbytes=data.nbytes,
            note=note,
        )
        if data.nbytes < SMALL_BYTES:
            self._small += bytes(aligned(len(self._small), SMALL_ALIGNMENT) - len(self._small))
            self._small_tensors.append(replace(placed, offset=len(self._small)))
            self._small += data.tobytes()
        else:
            self.blob(tensor.name, data)
            self.tensors.append(placed)

    def _write(self, data: Bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise _failed(self.path, error) from error


def _failed(path: Path, error: OSError) -> FitError | UsageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FitError(f"{path}: there is no room left on the disk; free some, or choose another")
    return UsageError(f"{path}: {error.strerror}")


def _remove_abandoned(path: Path) -> None:
    """Remove drafts of processes that were killed while they wrote the same file."""
    for draft in path.parent.glob(f".{path.name}.*.draft"):
        found = re.search(r"\.(\d+)\.draft$", draft.name)
        if found is not None and not _runs(int(found[1])):
            draft.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    return process != os.getpid()
