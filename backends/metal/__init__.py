"""The Metal backend: kernels of `backends/gpu`, compiled by macOS where they run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.errors import BackendError
from edgellm.hookspecs import hookimpl

from ..gpu.backend import GPUBackend

if TYPE_CHECKING:
    from tinygrad.renderer import Renderer

    from ..gpu.device import Device


class MetalBackend(GPUBackend):
    """Implements `edgellm.executor.Backend` for a Mac's own GPU."""

    name = "metal"
    language = Path(__file__).with_name("language.h")
    package = Path(__file__).parent

    def device(self) -> Device:
        from .device import MetalDevice

        return MetalDevice()

    def probe(self) -> str | None:
        from edgellm.memory import size

        from .device import MetalDevice

        try:
            device = MetalDevice()
        except BackendError:
            return None
        device.close()
        return f"{device.about.name}, {size(device.about.memory)} of memory for it"

    def missing(self) -> str | None:
        from . import objc

        return objc.missing()

    @staticmethod
    def renderer() -> Renderer:
        from .renderer import RowRenderer

        return RowRenderer()


@hookimpl
def edgellm_backend(device: str) -> MetalBackend | None:
    return MetalBackend() if device == "metal" else None
