"""Builds a bundle for a CPU: the step captured, its kernels compiled, its weights packed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm import layout, packing
from edgellm.errors import UnsupportedError

from .compiler import use_cpu
from .library import library
from .step_source import step_source

if TYPE_CHECKING:
    from edgellm.bundle_writer import BundleWriter
    from edgellm.checkpoint import Checkpoint
    from edgellm.executor import Progress

    from .target import Processor

LIBRARY = "library"
"""The blob that holds the shared object."""
MAX_HEAD_DIM = 4096
"""Channels of a head that attention has room for: QUERY_VALUES in kernels/attend.c."""


def build(
    checkpoint: Checkpoint, target: Processor, writer: BundleWriter, progress: Progress | None
) -> None:
    """Write graph, library and packed tensors; raises BackendError where compiling fails,
    UnsupportedError for a model that the kernels can't run."""
    if checkpoint.config.head_dim > MAX_HEAD_DIM:
        allowed = f"up to {MAX_HEAD_DIM} channels are supported"
        raise UnsupportedError(checkpoint.path, "head_dim", checkpoint.config.head_dim, allowed)
    use_cpu()
    from edgellm.capture import Weight, capture

    stored = {
        name: tensor for name, tensor in checkpoint.tensors.items() if name not in layout.TABLES
    }
    formats = packing.formats(stored)
    graph = capture(
        checkpoint.config,
        {name: Weight(tuple(stored[name].shape), formats.get(name)) for name in stored},
    )
    writer.graph(graph)
    writer.blob(LIBRARY, library(target, step_source(graph), progress))
    total, done = sum(tensor.nbytes for tensor in stored.values()), 0
    for name, tensor in stored.items():
        writer.tensor(name, tensor, formats.get(name))
        done += tensor.nbytes
        if progress:
            progress("packing", done, total)
