"""Builds a bundle from a checkpoint: says what is missing first, then works, and can be ended."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm import __version__, bundle, memory, model_files, plan, tokenizer_blob
from edgellm.bundle_writer import BundleWriter
from edgellm.errors import FitError, FormatError
from edgellm.executor import Target
from edgellm.key_folder import KeyFolder
from edgellm.manifest import ALIGNMENT, Built, Manifest, Source

if TYPE_CHECKING:
    from edgellm.checkpoint import Checkpoint
    from edgellm.executor import Backend, Progress

BUILDING_BYTES = 200 << 20
"""What Python, tinygrad and two compilers take while they build, besides the tensor at hand."""
LIBRARY_BYTES = 8 << 20
"""More than compiled code, manifest and gaps take in the file."""


def build(
    checkpoint: Checkpoint,
    path: Path,
    backend: Backend,
    target: Target,
    keys: KeyFolder,
    *,
    signer: str | None = None,
    source: Source | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the bundle of a checkpoint for `target` to `path`, whole or not at all.

    `source` is given for a checkpoint that no file holds.

    Raises BackendError where there is no compiler, FitError where disk or memory don't suffice,
    UsageError where the file or a signature can't be written.
    """
    if checkpoint.tokenizer is None:
        raise FormatError(checkpoint.path, "tokenizer", None, "the model needs its vocabulary")
    compiler = backend.compiler(target)
    sizes = plan.packed(checkpoint)
    _check_memory(checkpoint, max(sizes.values()))
    vocabulary = tokenizer_blob.write(checkpoint.tokenizer)
    gaps = sum(ALIGNMENT // 2 for nbytes in sizes.values() if nbytes >= ALIGNMENT)
    expected = sum(sizes.values()) + gaps + len(vocabulary) + LIBRARY_BYTES
    _check_disk(path, expected)
    if source is None:
        source = _source(Path(checkpoint.path), progress)
    said, named = checkpoint.provenance, Path(checkpoint.path).resolve()
    name = said.name or (named.name if named.is_dir() else named.stem)
    described = Manifest(
        provenance=replace(said, name=name),
        source=source,
        built=Built(__version__, compiler, datetime.now(UTC).isoformat(timespec="seconds")),
        backend=backend.name,
        target=Target(target.name, target.machine, target.features),
        config=checkpoint.config,
        template=checkpoint.template,
        sampling=checkpoint.sampling,
        blobs=(),
        tensors=(),
    )
    with BundleWriter(path) as writer, memory.fitting(checkpoint.path):
        writer.blob(bundle.TOKENIZER, vocabulary)
        backend.build(checkpoint, target, writer, progress)
        writer.finish(described, keys, signer)


def _source(path: Path, progress: Progress | None) -> Source:
    files = model_files.of(path)
    total, done = sum(file.stat().st_size for file in files), 0

    def read(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress("reading", done, total)

    return Source(path.resolve().name, total, model_files.sha256(path, read))


def _check_memory(checkpoint: Checkpoint, largest: int) -> None:
    there, need = memory.physical(), BUILDING_BYTES + 2 * largest
    if there is not None and need > there:
        raise FitError(
            f"{checkpoint.path}: building takes about {memory.size(need)} of memory, this machine "
            f"has {memory.size(there)}; build it on another one: edgellm build --board BOARD"
        )


def _check_disk(path: Path, need: int) -> None:
    folder = next(folder for folder in path.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(folder).free
    if need > free:
        raise FitError(
            f"{path}: the bundle takes about {memory.size(need)}, the disk has {memory.size(free)} "
            "left; free some (edgellm build --clear-cache), or choose another place with -o, or "
            "XDG_CACHE_HOME"
        )
