"""The CPU backend: tinygrad's kernels in C, compiled by clang or Zig."""

from __future__ import annotations

import os
import platform

from edgellm import memory
from edgellm.checkpoint import Checkpoint
from edgellm.executor import Executor, Progress
from edgellm.hookspecs import hookimpl


class CPUBackend:
    """Implements `edgellm.executor.Backend`."""

    name = "cpu"

    def probe(self) -> str | None:
        return f"{platform.machine()}, {os.cpu_count()} cores"

    def open(
        self,
        checkpoint: Checkpoint,
        *,
        context: int,
        slots: int = 1,
        exact: bool = False,
        progress: Progress | None = None,
    ) -> Executor:
        from .compiler import prepare

        memory.check(checkpoint, context, slots, exact)
        prepare()
        from edgellm.jit_executor import JitExecutor

        return JitExecutor(checkpoint, context, slots, exact, progress=progress)


@hookimpl
def edgellm_backend(device: str) -> CPUBackend | None:
    return CPUBackend() if device == "cpu" else None
