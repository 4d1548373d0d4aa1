"""GPUBackend: what is the same for all backends that run kernels on a Device."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.errors import UsageError
from edgellm.executor import Target

if TYPE_CHECKING:
    from tinygrad.renderer import Renderer

    from edgellm.board_profile import Board
    from edgellm.bundle import Bundle
    from edgellm.bundle_writer import BundleWriter
    from edgellm.checkpoint import Checkpoint
    from edgellm.executor import KV, Executor, Progress

    from .device import Device

ANY = "any"
"""The machine of targets: drivers compile the sources where they run."""


class GPUBackend(ABC):
    """Implements `edgellm.executor.Backend`, but for the device and its language.

    Its targets are NAME, which computes in float32, and NAME-half, which multiplies in half
    precision where the device has it, and keeps keys and values in it unless told otherwise.
    """

    name: str
    language: Path
    """The header that maps `kernels/dialect.h` to the device's language."""
    package: Path
    """The folder of the backend's own sources."""

    @abstractmethod
    def device(self) -> Device:
        """Open the device. Raises BackendError where there is none."""

    @abstractmethod
    def probe(self) -> str | None:
        """As `Backend.probe`."""

    @abstractmethod
    def missing(self) -> str | None:
        """What keeps this machine from running anything at all; None if it can."""

    @staticmethod
    @abstractmethod
    def renderer() -> Renderer:
        """What writes row functions in the device's language, as `capture` wants it: functions
        of no special kind (`void name(…)`), a work item for each number, in one dimension."""

    def target(self, name: str | None = None, board: str | Board | None = None) -> Target:
        if isinstance(board, str):
            from edgellm.board import load

            load(board)  # which makes no difference but that it has to be known
        if name in (None, "native"):
            name = self.name
        names = self.name, f"{self.name}-half"
        if name not in names:
            raise UsageError(f"there is no target {name!r} for {self.name}; {', '.join(names)}")
        return Target(str(name), ANY)

    def lacks(self, target: Target) -> str | None:
        return self.missing()

    def compiler(self, target: Target) -> str:
        from importlib.metadata import version

        return f"tinygrad {version('tinygrad')}"

    def recipe(self) -> str:
        digest = hashlib.sha256()
        folders = Path(__file__).parent, Path(__file__).with_name("kernels"), self.package
        for path in sorted(path for folder in folders for path in folder.iterdir()):
            if path.suffix in (".c", ".h", ".py"):
                digest.update(f"{path.name} ".encode() + path.read_bytes())
        return digest.hexdigest()[:16]

    def build(
        self,
        checkpoint: Checkpoint,
        target: Target,
        writer: BundleWriter,
        progress: Progress | None = None,
    ) -> None:
        from .build import build

        build(checkpoint, self.language, self.renderer, writer, progress)

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
        from . import sources
        from .executor import GPUExecutor, Options
        from .tuning import tuned
        from .weights import BundleWeights

        if kv == "int8":
            raise UsageError(f"the {self.name} backend keeps keys and values in f32 or f16")
        texts = sources.unpack(bundle.blob(sources.BLOB), bundle.path)
        half, device = bundle.target.name.endswith("-half"), self.device()
        options = Options(
            context,
            slots,
            kv_half=kv == "f16" or (kv is None and half),
            half=half and device.about.half,
        )
        try:
            variant = tuned(device, self.name, texts)
        except BaseException:
            device.close()
            raise
        return GPUExecutor(
            *(device, variant, bundle.config, bundle.graph, texts, BundleWeights(bundle), options),
            name=bundle.path,
            progress=progress,
        )

    def reference(
        self,
        checkpoint: Checkpoint,
        *,
        context: int,
        slots: int = 1,
        progress: Progress | None = None,
    ) -> Executor:
        from . import sources
        from .build import captured
        from .executor import GPUExecutor, Options
        from .tuning import tuned
        from .weights import ExactWeights

        weights = ExactWeights(checkpoint)
        graph = captured(checkpoint, weights.formats, self.renderer)
        texts = sources.texts(self.language, graph)
        device = self.device()
        try:
            variant = tuned(device, self.name, texts)
        except BaseException:
            device.close()
            raise
        return GPUExecutor(
            *(device, variant, checkpoint.config, graph, texts, weights, Options(context, slots)),
            name=checkpoint.path,
            progress=progress,
        )
