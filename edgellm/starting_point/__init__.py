"""The backend `starting_point` for edgellm: runs models with NumPy."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import edgellm
from edgellm.errors import UsageError
from edgellm.executor import KV, Target

if TYPE_CHECKING:
    from edgellm.bundle import Bundle
    from edgellm.bundle_writer import BundleWriter
    from edgellm.checkpoint import Checkpoint
    from edgellm.executor import Executor, Progress

NAME = "starting_point"


class Backend:
    """Implements `edgellm.executor.Backend`. What is heavy is imported where it is used."""

    name = NAME

    def probe(self) -> str | None:
        """Look for the device here; without one return None."""
        return f"NumPy on {platform.machine()}"

    def target(self, name: str | None = None, board: str | None = None) -> Target:
        if name not in (None, NAME):
            raise UsageError(f"no target {name!r}; {NAME} compiles for {NAME!r} alone")
        return Target(NAME, platform.machine())

    def lacks(self, target: Target) -> str | None:
        here = platform.machine()
        return None if target.machine == here else f"this machine is {here}, not {target.machine}"

    def compiler(self, target: Target) -> str:
        return "none"

    def recipe(self) -> str:
        """What `build` does is written in this file; where it compiles kernels, add theirs."""
        return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()

    def build(
        self,
        checkpoint: Checkpoint,
        target: Target,
        writer: BundleWriter,
        progress: Progress | None = None,
    ) -> None:
        """Pack the weights. Compiled kernels would go in with `writer.blob`."""
        from edgellm import layout, packing

        stored = {n: each for n, each in checkpoint.tensors.items() if n not in layout.TABLES}
        formats = packing.formats(stored)
        for done, (name, tensor) in enumerate(stored.items()):
            writer.tensor(name, tensor, formats.get(name))
            if progress:
                progress("packing", done + 1, len(stored))

    def open(
        self,
        bundle: Bundle,
        *,
        context: int,
        slots: int = 1,
        threads: int | None = None,
        kv: KV | None = None,
        progress: Progress | None = None,
    ) -> Executor:
        if kv not in (None, "f32"):
            raise UsageError(f"{NAME} keeps keys and values in f32, not in {kv}")
        from .executor import Executor

        return Executor(bundle, context, slots)

    def reference(
        self,
        checkpoint: Checkpoint,
        *,
        context: int,
        slots: int = 1,
        progress: Progress | None = None,
    ) -> Executor:
        from .executor import Executor

        return Executor(checkpoint, context, slots)


@edgellm.hookimpl
def edgellm_backend(device: str) -> Backend | None:
    return Backend() if device == NAME else None
