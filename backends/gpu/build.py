"""Builds a bundle for a GPU: the step captured, its sources, its weights packed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm import layout, packing
from edgellm.errors import UnsupportedError

from . import sources
from .fusion import fused

if TYPE_CHECKING:
    from tinygrad.renderer import Renderer

    from edgellm.bundle_writer import BundleWriter
    from edgellm.checkpoint import Checkpoint
    from edgellm.executor import Progress
    from edgellm.graph import StepGraph

MAX_HEAD_DIM = 4096


def captured(
    checkpoint: Checkpoint, formats: dict[str, str], renderer: Callable[[], Renderer]
) -> StepGraph:
    """The step's graph. Raises UnsupportedError for a model that the kernels can't run."""
    if checkpoint.config.head_dim > MAX_HEAD_DIM:
        allowed = f"up to {MAX_HEAD_DIM} channels are supported"
        raise UnsupportedError(checkpoint.path, "head_dim", checkpoint.config.head_dim, allowed)
    use_no_device()
    from edgellm.capture import Weight, capture

    weights = {
        name: Weight(tuple(tensor.shape), formats.get(name))
        for name, tensor in checkpoint.tensors.items()
        if name not in layout.TABLES
    }
    return fused(capture(checkpoint.config, weights, codes=False, renderer=renderer()))


def build(
    checkpoint: Checkpoint,
    language: Path,
    renderer: Callable[[], Renderer],
    writer: BundleWriter,
    progress: Progress | None,
) -> None:
    """Write graph, sources and packed tensors."""
    stored = {
        name: tensor for name, tensor in checkpoint.tensors.items() if name not in layout.TABLES
    }
    formats = packing.formats(stored)
    graph = captured(checkpoint, formats, renderer)
    writer.graph(graph)
    writer.blob(sources.BLOB, sources.pack(sources.texts(language, graph)))
    total, done = sum(tensor.nbytes for tensor in stored.values()), 0
    for name, tensor in stored.items():
        writer.tensor(name, tensor, formats.get(name))
        done += tensor.nbytes
        if progress:
            progress("packing", done, total)


def use_no_device() -> None:
    """Keep tinygrad from looking for accelerators: it writes sources here, and runs nothing."""
    if "tinygrad" not in sys.modules and not os.environ.get("DEV"):
        os.environ["DEV"] = "CPU"
