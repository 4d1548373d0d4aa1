"""The CPU backend: kernels in C, compiled by clang or Zig, and the engine that runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm import processor
from edgellm.errors import UsageError
from edgellm.hookspecs import hookimpl

from . import target as processors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellm.adapter import Adapter
    from edgellm.board_profile import Board
    from edgellm.bundle import Bundle
    from edgellm.bundle_writer import BundleWriter
    from edgellm.checkpoint import Checkpoint
    from edgellm.executor import KV, AdaptingExecutor, Progress, Target
    from edgellm.training.operations import Operations


class CPUBackend:
    """Implements `edgellm.executor.Backend`."""

    name = "cpu"
    adapts = True

    def probe(self) -> str | None:
        from .cores import usable

        fitting = [target.name for target in processors.TARGETS if not processors.missing(target)]
        kernels = f"kernels for {fitting[0]}" if fitting else "no kernels for this processor"
        return f"{processor.machine()}, {usable()} cores, {kernels}"

    def target(
        self, name: str | None = None, board: str | Board | None = None
    ) -> processors.Processor:
        return processors.of_board(board) if board else processors.find(name or "native")

    def lacks(self, target: Target) -> str | None:
        missing = processors.missing(target)
        if target.machine != processor.machine():
            return f"this machine is {processor.machine()}, not {target.machine}"
        return f"this processor has no {', '.join(missing)}" if missing else None

    def compiler(self, target: Target) -> str:
        from .library import toolchain, version

        return version(toolchain(processors.find(target.name)))

    def recipe(self) -> str:
        from .recipe import recipe

        return recipe()

    def build(
        self,
        checkpoint: Checkpoint,
        target: Target,
        writer: BundleWriter,
        progress: Progress | None = None,
    ) -> None:
        from .build import build

        build(checkpoint, processors.find(target.name), writer, progress)

    def open(
        self,
        bundle: Bundle,
        *,
        context: int,
        slots: int = 1,
        threads: int | None = None,
        kv: KV | None = None,
        adapters: Sequence[Adapter] = (),
        progress: Progress | None = None,
    ) -> AdaptingExecutor:
        from .executor import BundleExecutor

        if kv == "f32":
            raise UsageError("the cpu backend keeps keys and values in f16 or int8, not in f32")

        return BundleExecutor(
            bundle.config,
            bundle.graph,
            bundle.blob("library"),
            {name: tensor.address for name, tensor in bundle.tensors.items()},
            context=context,
            slots=slots,
            threads=threads,
            kv=kv or "f16",
            name=bundle.path,
            weight_bytes=sum(tensor.nbytes for tensor in bundle.tensors.values()),
            owner=bundle,
            adapters=adapters,
        )

    def prepare(self) -> None:
        from .compiler import prepare

        prepare()

    def reference(
        self,
        checkpoint: Checkpoint,
        *,
        context: int,
        slots: int = 1,
        adapters: Sequence[Adapter] = (),
        progress: Progress | None = None,
    ) -> AdaptingExecutor:
        self.prepare()
        from edgellm.jit_executor import JitExecutor

        return JitExecutor(checkpoint, context, slots, progress=progress, adapters=adapters)

    def training(self, threads: int | None = None) -> Operations:
        self.prepare()
        from .training import CPUOperations

        return CPUOperations(threads)


@hookimpl
def edgellm_backend(device: str) -> CPUBackend | None:
    return CPUBackend() if device == "cpu" else None
