"""Builds a bundle for a CPU: the step captured, its kernels compiled, its weights packed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgellm import layout, packing

from .library import library
from .step_source import step_source

if TYPE_CHECKING:
    from edgellm.bundle_writer import BundleWriter
    from edgellm.checkpoint import Checkpoint, StoredTensor
    from edgellm.executor import Progress

    from .target import Processor

LIBRARY = "library"
"""The blob that holds the shared object."""
NOT_PACKED = "shortconv.conv.weight"
"""A matrix only by its shape: the filters of a convolution."""


def build(
    checkpoint: Checkpoint, target: Processor, writer: BundleWriter, progress: Progress | None
) -> None:
    """Write graph, library and packed tensors; raises BackendError where compiling fails."""
    # The capture runs nothing, so any device will do; tinygrad reads this when it's imported, and
    # would else look for the machine's accelerators.
    os.environ.setdefault("DEV", "CPU")
    from edgellm.capture import Weight, capture

    stored = {
        name: tensor for name, tensor in checkpoint.tensors.items() if name not in layout.TABLES
    }
    formats = _formats(stored)
    graph = capture(
        checkpoint.config,
        {name: Weight(tuple(stored[name].shape), formats[name]) for name in stored},
    )
    writer.graph(graph)
    writer.blob(LIBRARY, library(target, step_source(graph), progress))
    total, done = sum(tensor.nbytes for tensor in stored.values()), 0
    for name, tensor in stored.items():
        writer.tensor(name, tensor, formats[name])
        done += tensor.nbytes
        if progress:
            progress("packing", done, total)


def _formats(tensors: Mapping[str, StoredTensor]) -> dict[str, str | None]:
    """How each matrix is packed; None for what stays plain float32."""
    return {
        name: packing.choose(tensor)[0]
        if len(tensor.shape) == 2 and not name.endswith((NOT_PACKED, "_norm.weight"))
        else None
        for name, tensor in tensors.items()
    }
