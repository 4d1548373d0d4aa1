"""OpenCL's functions by way of ctypes: the loader that finds the drivers, and errors by name.

A binding of our own, for some thirty functions: pyopencl is well kept and has wheels for boards,
but is a compiled package with a loader of its own, one more thing to install and to keep in step.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from functools import cache
from pathlib import Path
from typing import Any

from edgellm.errors import BackendError, EdgeError, FitError

LOADERS = ("libOpenCL.so.1", "libOpenCL.so", "/vendor/lib64/libOpenCL.so", "OpenCL")
VENDORS = Path("/etc/OpenCL/vendors")
INSTALL = (
    "install the device's driver, or for the CPU: apt-get install ocl-icd-libopencl1 "
    "pocl-opencl-icd"
)

ERRORS = {
    -1: "CL_DEVICE_NOT_FOUND",
    -2: "CL_DEVICE_NOT_AVAILABLE",
    -3: "CL_COMPILER_NOT_AVAILABLE",
    -4: "CL_MEM_OBJECT_ALLOCATION_FAILURE",
    -5: "CL_OUT_OF_RESOURCES",
    -6: "CL_OUT_OF_HOST_MEMORY",
    -11: "CL_BUILD_PROGRAM_FAILURE",
    -13: "CL_MISALIGNED_SUB_BUFFER_OFFSET",
    -14: "CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST",
    -30: "CL_INVALID_VALUE",
    -32: "CL_INVALID_PLATFORM",
    -33: "CL_INVALID_DEVICE",
    -34: "CL_INVALID_CONTEXT",
    -36: "CL_INVALID_COMMAND_QUEUE",
    -38: "CL_INVALID_MEM_OBJECT",
    -42: "CL_INVALID_BINARY",
    -44: "CL_INVALID_PROGRAM",
    -45: "CL_INVALID_PROGRAM_EXECUTABLE",
    -46: "CL_INVALID_KERNEL_NAME",
    -48: "CL_INVALID_KERNEL",
    -49: "CL_INVALID_ARG_INDEX",
    -50: "CL_INVALID_ARG_VALUE",
    -51: "CL_INVALID_ARG_SIZE",
    -52: "CL_INVALID_KERNEL_ARGS",
    -54: "CL_INVALID_WORK_GROUP_SIZE",
    -55: "CL_INVALID_WORK_ITEM_SIZE",
    -59: "CL_INVALID_OPERATION",
    -61: "CL_INVALID_BUFFER_SIZE",
    -1001: "CL_PLATFORM_NOT_FOUND_KHR",
}
NO_MEMORY = (-4, -6, -61)

_INT, _UINT, _ULONG, _SIZE = ctypes.c_int32, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_size_t
_POINTER = ctypes.c_void_p
_SIZES, _ERROR = ctypes.POINTER(_SIZE), ctypes.POINTER(_INT)
_FUNCTIONS: dict[str, tuple[type, list[Any]]] = {
    "clGetPlatformIDs": (_INT, [_UINT, _POINTER, _POINTER]),
    "clGetPlatformInfo": (_INT, [_POINTER, _UINT, _SIZE, _POINTER, _SIZES]),
    "clGetDeviceIDs": (_INT, [_POINTER, _ULONG, _UINT, _POINTER, _POINTER]),
    "clGetDeviceInfo": (_INT, [_POINTER, _UINT, _SIZE, _POINTER, _SIZES]),
    "clCreateContext": (_POINTER, [_POINTER, _UINT, _POINTER, _POINTER, _POINTER, _ERROR]),
    "clCreateCommandQueue": (_POINTER, [_POINTER, _POINTER, _ULONG, _ERROR]),
    "clCreateBuffer": (_POINTER, [_POINTER, _ULONG, _SIZE, _POINTER, _ERROR]),
    "clCreateSubBuffer": (_POINTER, [_POINTER, _ULONG, _UINT, _POINTER, _ERROR]),
    "clCreateProgramWithSource": (_POINTER, [_POINTER, _UINT, _POINTER, _POINTER, _ERROR]),
    "clCreateProgramWithBinary": (
        _POINTER,
        [_POINTER, _UINT, _POINTER, _POINTER, _POINTER, _POINTER, _ERROR],
    ),
    "clBuildProgram": (_INT, [_POINTER, _UINT, _POINTER, ctypes.c_char_p, _POINTER, _POINTER]),
    "clGetProgramBuildInfo": (_INT, [_POINTER, _POINTER, _UINT, _SIZE, _POINTER, _SIZES]),
    "clGetProgramInfo": (_INT, [_POINTER, _UINT, _SIZE, _POINTER, _SIZES]),
    "clCreateKernel": (_POINTER, [_POINTER, ctypes.c_char_p, _ERROR]),
    "clSetKernelArg": (_INT, [_POINTER, _UINT, _SIZE, _POINTER]),
    "clEnqueueNDRangeKernel": (
        _INT,
        [_POINTER, _POINTER, _UINT, _POINTER, _POINTER, _POINTER, _UINT, _POINTER, _POINTER],
    ),
    "clEnqueueReadBuffer": (
        _INT,
        [_POINTER, _POINTER, _UINT, _SIZE, _SIZE, _POINTER, _UINT, _POINTER, _POINTER],
    ),
    "clEnqueueWriteBuffer": (
        _INT,
        [_POINTER, _POINTER, _UINT, _SIZE, _SIZE, _POINTER, _UINT, _POINTER, _POINTER],
    ),
    "clEnqueueCopyBuffer": (
        _INT,
        [_POINTER, _POINTER, _POINTER, _SIZE, _SIZE, _SIZE, _UINT, _POINTER, _POINTER],
    ),
    "clFlush": (_INT, [_POINTER]),
    "clFinish": (_INT, [_POINTER]),
    "clReleaseMemObject": (_INT, [_POINTER]),
    "clReleaseKernel": (_INT, [_POINTER]),
    "clReleaseProgram": (_INT, [_POINTER]),
    "clReleaseCommandQueue": (_INT, [_POINTER]),
    "clReleaseContext": (_INT, [_POINTER]),
}


@cache
def library() -> ctypes.CDLL:
    """The loader, its functions declared. Raises BackendError where there is none, or where its
    drivers don't get along."""
    check_vendors(vendor_files())
    found = ctypes.util.find_library("OpenCL")
    for name in (*LOADERS, *([found] if found else [])):
        try:
            loaded = ctypes.CDLL(name)
            break
        except OSError:
            continue
    else:
        raise BackendError(f"this machine has no OpenCL (libOpenCL.so.1); {INSTALL}")
    for name, (result, arguments) in _FUNCTIONS.items():
        try:
            function = getattr(loaded, name)
        except AttributeError as error:
            raise BackendError(f"this machine's OpenCL library has no {name}; {INSTALL}") from error
        function.restype, function.argtypes = result, arguments
    return loaded


def vendor_files() -> list[Path]:
    """The files that name the drivers which the loader is going to load."""
    chosen = os.environ.get("OCL_ICD_VENDORS") or os.environ.get("OPENCL_VENDOR_PATH")
    place = Path(chosen) if chosen else VENDORS
    return [place] if place.suffix == ".icd" else sorted(place.glob("*.icd"))


def check_vendors(files: list[Path]) -> None:
    """Raise BackendError for drivers that crash one another: Rusticl and PoCL bring LLVM both."""
    named = {kind: file for file in files for kind in ("rusticl", "pocl") if kind in file.name}
    if len(named) == 2:
        raise BackendError(
            "Rusticl and PoCL are both installed, and crash when both are loaded; choose one: set "
            f"OCL_ICD_VENDORS to {named['rusticl']} or {named['pocl']}"
        )


def name_of(code: int) -> str:
    """An error's name, as OpenCL's headers have it."""
    return ERRORS.get(code, f"OpenCL error {code}")


def error_of(code: int, where: str) -> EdgeError:
    """What a failed call raises; `where` says what failed."""
    if code in NO_MEMORY:
        return FitError(
            f"{where}: the device has no memory left ({name_of(code)}); a shorter context (-c) or "
            "a smaller model takes less"
        )
    return BackendError(f"{where}: {name_of(code)}")


def check(code: int, where: str) -> None:
    """Raise what fits to a code that isn't 0."""
    if code:
        raise error_of(code, where)
