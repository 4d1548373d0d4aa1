"""Row functions in Metal's language, written by tinygrad on any machine."""

from __future__ import annotations

from typing import Any

from tinygrad.device import Compiler
from tinygrad.helpers import Target
from tinygrad.renderer.cstyle import CStyleLanguage, MetalRenderer


class RowRenderer(MetalRenderer):
    """tinygrad's own, without the compiler that only a Mac has: functions that kernels call, each
    work item with its place `gid`."""

    kernel_typedef = "static void"
    global_max = (0x7FFFFFFF,)
    """One dimension."""

    def __init__(self) -> None:
        CStyleLanguage.__init__(self, Target.parse("METAL::Apple7"))
        self.compiler = Compiler()
        self.extra_args = ["uint3 gid"]

    def render_kernel(self, *arguments: Any, **_: Any) -> str:
        """Without the header, which the program's text begins with."""
        return CStyleLanguage.render_kernel(self, *arguments)
