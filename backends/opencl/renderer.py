"""tinygrad's OpenCL C for row functions."""

from __future__ import annotations

from tinygrad.helpers import Target
from tinygrad.renderer.cstyle import OpenCLRenderer


class RowRenderer(OpenCLRenderer):
    """Writes plain functions, for a kernel to call; no vectors, for rows may begin anywhere."""

    kernel_typedef = "void"
    global_max = ((1 << 31) - 1,)
    supports_float4 = False
    has_shared = False

    def __init__(self) -> None:
        super().__init__(Target.parse("CL::"))
        self.code_for_workitem = {"g": lambda dimension: f"get_global_id({dimension})"}
