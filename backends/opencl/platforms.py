"""Which OpenCL devices there are, and what they say of themselves."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

from edgellm.errors import BackendError

from ..gpu.device import About
from .library import INSTALL, check, library, vendor_files

CPU, GPU, ACCELERATOR, ALL = 2, 4, 8, 0xFFFFFFFF
NOT_FOUND = (-1, -1001)
MOST = 64
"""Platforms, and devices of one, that are looked at."""
MAX_TEXT = 1 << 16

# clGetPlatformInfo and clGetDeviceInfo.
PLATFORM_NAME, PLATFORM_VERSION = 0x0902, 0x0901
TYPE, UNITS, GROUP_ITEMS, LARGEST = 0x1000, 0x1002, 0x1004, 0x1010
ALIGNMENT, MEMORY, LOCAL = 0x1019, 0x101F, 0x1023
AVAILABLE, COMPILER, NAME, DRIVER, VERSION, EXTENSIONS = (
    *(0x1027, 0x1028, 0x102B, 0x102D, 0x102F, 0x1030),
)


@dataclass(frozen=True)
class Found:
    """A device, not in use yet."""

    id: int
    kind: int
    """CPU, GPU or ACCELERATOR."""
    units: int
    """That compute at once."""
    about: About


def devices() -> list[Found]:
    """All that can compile and run, GPUs and their like before CPUs.

    Raises BackendError where there is no OpenCL, or its drivers don't get along.
    """
    found = [device for platform in _platforms() for device in _devices(platform)]
    return sorted(found, key=lambda device: device.kind == CPU)


def choose(number: int = 0) -> Found:
    """The device of a number, as `devices` orders them. Raises BackendError if there is none."""
    there = devices()
    if not there:
        hint = INSTALL
        if any("rusticl" in file.name for file in vendor_files()):
            hint = "Rusticl runs only what RUSTICL_ENABLE names (panfrost, v3d, …)"
        raise BackendError(f"OpenCL finds no device here; {hint}")
    if number >= len(there):
        names = ", ".join(f"opencl:{i} is {device.about.name}" for i, device in enumerate(there))
        raise BackendError(f"there is no device opencl:{number}; {names}")
    return there[number]


def _platforms() -> list[int]:
    count, ids = ctypes.c_uint32(), (ctypes.c_void_p * MOST)()
    code = library().clGetPlatformIDs(MOST, ids, ctypes.byref(count))
    if code in NOT_FOUND:
        return []
    check(code, "listing OpenCL's platforms")
    return [id for id in ids[: min(count.value, MOST)] if id]


def _devices(platform: int) -> list[Found]:
    count, ids = ctypes.c_uint32(), (ctypes.c_void_p * MOST)()
    code = library().clGetDeviceIDs(platform, ALL, MOST, ids, ctypes.byref(count))
    if code in NOT_FOUND:
        return []
    check(code, "listing OpenCL's devices")
    get = library().clGetPlatformInfo
    names = (_text(get, platform, PLATFORM_NAME), _text(get, platform, PLATFORM_VERSION))
    found = (_device(id, " ".join(names)) for id in ids[: min(count.value, MOST)] if id)
    return [device for device in found if device is not None]


def _device(id: int, platform: str) -> Found | None:
    if not (_number(id, AVAILABLE) and _number(id, COMPILER)):
        return None
    get = library().clGetDeviceInfo
    name, driver, version = (_text(get, id, what) for what in (NAME, DRIVER, VERSION))
    kind = _number(id, TYPE)
    is_cpu = bool(kind & CPU)
    return Found(
        id,
        CPU if is_cpu else kind & (GPU | ACCELERATOR),
        _number(id, UNITS),
        About(
            name=name,
            driver=" ".join((platform, name, version, driver)),
            memory=_number(id, MEMORY),
            largest=_number(id, LARGEST),
            items=_number(id, GROUP_ITEMS),
            local=_number(id, LOCAL),
            half="cl_khr_fp16" in _text(get, id, EXTENSIONS).split(),
            # A CPU's work item is a thread with vectors, a GPU's a lane of one.
            wide=(8,) if is_cpu else (1, 4, 8),
            alignment=max(64, _number(id, ALIGNMENT) // 8),
        ),
    )


def _number(device: int, what: int) -> int:
    """A number of any width; OpenCL is little-endian where edgellm runs."""
    value = ctypes.c_uint64(0)
    size = ctypes.c_size_t()
    get = library().clGetDeviceInfo
    check(get(device, what, 8, ctypes.byref(value), ctypes.byref(size)), "asking a device")
    return value.value


def _text(get: Callable[..., int], id: int, what: int) -> str:
    size = ctypes.c_size_t()
    check(get(id, what, 0, None, ctypes.byref(size)), "asking OpenCL")
    raw = ctypes.create_string_buffer(min(size.value, MAX_TEXT) + 1)
    check(get(id, what, min(size.value, MAX_TEXT), raw, None), "asking OpenCL")
    text = raw.value.decode(errors="replace")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
