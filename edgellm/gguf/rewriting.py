"""GGUF files made of others: quantised, or with adapters put into their weights.

Tensor by tensor, and in each piece by piece: memory is taken for the largest tensor as it is to be
stored, and for a few pieces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgellm import mixture, quant, quantiser
from edgellm.adapter import Adapter, LowRank
from edgellm.errors import FitError, UnsupportedError, UsageError
from edgellm.gguf.file import GGUFFile, write
from edgellm.tensor import MappedTensor

if TYPE_CHECKING:
    from edgellm.executor import Progress

FLOATS = ("F32", "F16", "BF16", "F64")
PIECE = 1 << 22
"""Values that are worked on at a time."""
QUANTISATION_VERSION = 2
OF_ONE_PART = ("split.no", "split.count", "split.tensors.count")


@dataclass(frozen=True)
class Report:
    """What became of one tensor."""

    name: str
    shape: tuple[int, ...]
    before: str
    after: str
    nbytes_before: int
    nbytes: int
    error: float
    """The root mean square of the difference, in that of the values; 0 for one that was copied."""


@dataclass(frozen=True)
class RewrittenTensor:
    """A tensor in another type, or with adapters in it, made when the writer asks for its bytes."""

    source: MappedTensor
    type: str
    tell: Callable[[Report], None]
    importance: NDArray[np.float32] | None = None
    changes: Sequence[LowRank] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def nbytes(self) -> int:
        return quant.TYPES[self.type].nbytes(self.shape)

    @property
    def data(self) -> memoryview:
        columns = self.shape[-1]
        rows = math.prod(self.shape) // columns
        made = np.empty((rows, self.nbytes // rows), np.uint8)
        stored = np.frombuffer(self.source.data, np.uint8).reshape(rows, -1)
        wrong = size = 0.0
        step = max(1, PIECE // columns)
        for begin in range(0, rows, step):
            part = slice(begin, min(begin + step, rows))
            shape = (part.stop - begin, columns)
            values: quantiser.Floats = quant.dequantise(
                self.source.type, stored[part].reshape(-1), shape
            )
            for change in self.changes:
                values = values + (change.b[part] * np.float32(change.scale)) @ change.a
            packed = quantiser.quantise(self.type, values, self.importance)
            made[part] = packed.reshape(shape[0], -1)
            difference = quant.dequantise(self.type, packed, shape) - values
            wrong += float(np.square(difference, dtype=np.float64).sum())
            size += float(np.square(values, dtype=np.float64).sum())
        error = math.sqrt(wrong / size) if size else 0.0
        before = self.source.type, self.type, self.source.nbytes, self.nbytes
        self.tell(Report(self.source.name, self.shape, *before, error))
        return made.reshape(-1).data


@dataclass(frozen=True)
class _Copied:
    """A tensor as it is, which is told of when it is written."""

    source: MappedTensor
    tell: Callable[[Report], None]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def type(self) -> str:
        return self.source.type

    @property
    def nbytes(self) -> int:
        return self.source.nbytes

    @property
    def data(self) -> memoryview:
        one = self.source
        self.tell(Report(one.name, one.shape, one.type, one.type, one.nbytes, one.nbytes, 0.0))
        return one.data


def quantise(
    file: GGUFFile,
    path: Path,
    file_type: str,
    importance: Mapping[str, NDArray[np.float32]] | None = None,
    *,
    requantise: bool = False,
    progress: Progress | None = None,
) -> list[Report]:
    """Write a file with `file`'s tensors in the mixture `file_type` of `edgellm.mixture`.

    `importance` has a weight for each column of some matrices. Raises UnsupportedError where
    matrices are quantised already, unless `requantise` allows it, UsageError for an unknown type
    and where the file can't be written, FitError where the disk is full.
    """
    if file_type not in mixture.FILE_TYPES:
        raise UsageError(f"type {file_type!r}; there are {', '.join(mixture.FILE_TYPES)}")
    importance = importance or {}
    architecture = str(file.metadata.get("general.architecture", ""))
    types = mixture.types(file_type, architecture, file.tensors, bool(importance))
    for name in types:
        kind = file.tensors[name].type
        if kind not in FLOATS and not requantise:
            remedy = "quantising again loses more: give a float file, or say --allow-requantize"
            raise UnsupportedError(file.path, f"type of {name}", kind, remedy)
    metadata = {
        **file.metadata,
        "general.file_type": mixture.FILE_TYPES[file_type].number,
        "general.quantization_version": QUANTISATION_VERSION,
    }
    writer = _Writer(file, progress)
    tensors: dict[str, RewrittenTensor | _Copied] = {}
    for name, tensor in file.tensors.items():
        if name in types and tensor.type != types[name]:
            weights = importance.get(name)
            tensors[name] = RewrittenTensor(tensor, types[name], writer.tell, weights)
        else:
            tensors[name] = _Copied(tensor, writer.tell)
    return writer.write(path, metadata, tensors)


def merge(
    file: GGUFFile, path: Path, adapters: Sequence[Adapter], progress: Progress | None = None
) -> list[Report]:
    """Write a file with all of the adapters in its weights, each matrix in the type that it had; in
    Q8_0 where edgellm can't make that. Raises as `quantise`."""
    writer = _Writer(file, progress)
    tensors: dict[str, RewrittenTensor | _Copied] = {}
    for name, tensor in file.tensors.items():
        changes = [adapter.matrices[name] for adapter in adapters if name in adapter.matrices]
        if changes:
            possible = tensor.type in quantiser.PACKERS or tensor.type in quant.PACKERS
            kind = tensor.type if possible else mixture.fitting("Q8_0", tensor.shape[-1])
            tensors[name] = RewrittenTensor(tensor, kind, writer.tell, changes=changes)
        else:
            tensors[name] = _Copied(tensor, writer.tell)
    name = str(file.metadata.get("general.name") or Path(file.path).stem)
    metadata = {
        **file.metadata,
        "general.name": " + ".join([name, *(adapter.name for adapter in adapters)]),
        "general.base_model.count": 1,
        "general.base_model.0.name": name,
        "edgellm.adapters": [
            f"{adapter.name} {adapter.digest()} {adapter.licence}".strip() for adapter in adapters
        ],
    }
    return writer.write(path, metadata, tensors)


class _Writer:
    """Writes a file, and gathers what its tensors tell."""

    def __init__(self, file: GGUFFile, progress: Progress | None) -> None:
        self.file, self.progress = file, progress
        self.reports: list[Report] = []
        self.done = 0

    def tell(self, report: Report) -> None:
        self.reports.append(report)
        self.done += report.nbytes_before
        if self.progress is not None:
            total = sum(tensor.nbytes for tensor in self.file.tensors.values())
            self.progress("quantising", self.done, total)

    def write(
        self,
        path: Path,
        metadata: Mapping[str, object],
        tensors: Mapping[str, RewrittenTensor | _Copied],
    ) -> list[Report]:
        if any(path.exists() and path.samefile(part) for part in self.file.parts):
            raise UsageError(f"{path}: that is the model itself; give the file to write")
        said = {key: value for key, value in metadata.items() if key not in OF_ONE_PART}
        try:
            write(path, said, tensors)
        except OSError as error:
            if error.errno == 28:  # ENOSPC
                raise FitError(f"{path}: there is no room left on the disk") from error
            raise UsageError(f"{path}: {error.strerror}") from error
        return self.reports
