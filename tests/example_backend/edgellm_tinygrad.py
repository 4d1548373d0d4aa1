"""An edgellm backend: models in tinygrad, on whichever of its devices is the default one.

DEV=CUDA edgellm chat model.gguf --device tinygrad
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING

import edgellm
from edgellm import layout, packing, plan
from edgellm.errors import UsageError
from edgellm.executor import KV, Target

if TYPE_CHECKING:
    from edgellm.bundle import Bundle
    from edgellm.bundle_writer import BundleWriter
    from edgellm.checkpoint import Checkpoint
    from edgellm.executor import Executor, Progress


class TinygradBackend:
    name = "tinygrad"

    def probe(self) -> str | None:
        from tinygrad import Device

        return f"tinygrad on {Device.DEFAULT}"

    def target(self, name: str | None = None, board: str | None = None) -> Target:
        if name not in (None, self.name):
            raise UsageError(f"no target {name!r}; there is {self.name}")
        return Target(self.name, platform.machine())

    def lacks(self, target: Target) -> str | None:
        return None  # tinygrad compiles for what is there when a model is opened

    def compiler(self, target: Target) -> str:
        return f"tinygrad {version('tinygrad')}"

    def recipe(self) -> str:
        return "1"

    def build(
        self,
        checkpoint: Checkpoint,
        target: Target,
        writer: BundleWriter,
        progress: Progress | None = None,
    ) -> None:
        stored = {n: each for n, each in checkpoint.tensors.items() if n not in layout.TABLES}
        formats = packing.formats(stored)
        for name, tensor in stored.items():
            writer.tensor(name, tensor, formats.get(name))

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
            raise UsageError(f"{self.name} keeps keys and values in f32, not in {kv}")
        return self.reference(bundle, context=context, slots=slots, progress=progress)

    def reference(
        self,
        model: Checkpoint | Bundle,
        *,
        context: int,
        slots: int = 1,
        progress: Progress | None = None,
    ) -> Executor:
        plan.require(model, plan.reference(model, context=context, slots=slots))
        from edgellm.jit_executor import JitExecutor

        return JitExecutor(model, context, slots, progress=progress)


@edgellm.hookimpl
def edgellm_backend(device: str) -> TinygradBackend | None:
    return TinygradBackend() if device == "tinygrad" else None
