"""The OpenCL backend: kernels of `backends/gpu`, compiled by the device's driver where they run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.errors import BackendError
from edgellm.hookspecs import hookimpl

from ..gpu.backend import GPUBackend

if TYPE_CHECKING:
    from tinygrad.renderer import Renderer

    from ..gpu.device import Device


class OpenCLBackend(GPUBackend):
    """Implements `edgellm.executor.Backend` for one of OpenCL's devices, by its number."""

    name = "opencl"
    language = Path(__file__).with_name("language.h")
    package = Path(__file__).parent

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def device(self) -> Device:
        from .device import OpenCLDevice
        from .platforms import choose

        return OpenCLDevice(choose(self.number))

    def probe(self) -> str | None:
        from .platforms import choose

        try:
            found = choose(self.number)
        except BackendError:
            return None
        return f"{found.about.name}, {found.units} compute units"

    @property
    def last_resort(self) -> bool:
        """Whether the device is the processor, which the CPU's backend is faster on."""
        from .platforms import CPU, choose

        return choose(self.number).kind == CPU

    def missing(self) -> str | None:
        from .platforms import choose

        try:
            choose(self.number)
        except BackendError as error:
            return str(error)
        return None

    @staticmethod
    def renderer() -> Renderer:
        from .renderer import RowRenderer

        return RowRenderer()


@hookimpl
def edgellm_backend(device: str) -> OpenCLBackend | None:
    kind, _, number = device.partition(":")
    if kind != "opencl" or not (number.isdecimal() or device == kind):
        return None
    return OpenCLBackend(int(number or 0))
