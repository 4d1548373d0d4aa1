"""Objective-C from Python: the messages that Metal's host code sends, each with its types.

Objects are plain addresses. What a message named `new…` returns is owned by the caller, who sends
`release`; anything else belongs to the pool that is open, and is kept by `retain`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from edgellm.errors import BackendError

FRAMEWORKS = "/System/Library/Frameworks"
LIBRARIES = (
    "/usr/lib/libobjc.A.dylib",
    f"{FRAMEWORKS}/Foundation.framework/Foundation",
    # Without it MTLCreateSystemDefaultDevice finds nothing, says Apple's documentation.
    f"{FRAMEWORKS}/CoreGraphics.framework/CoreGraphics",
    f"{FRAMEWORKS}/Metal.framework/Metal",
)
"""The run time first, Metal last."""

_Id, _UInt, _Bool = ctypes.c_void_p, ctypes.c_ulong, ctypes.c_bool
_Text, _Double = ctypes.c_char_p, ctypes.c_double


class Size(ctypes.Structure):
    """MTLSize."""

    _fields_ = [("width", _UInt), ("height", _UInt), ("depth", _UInt)]


class Range(ctypes.Structure):
    """NSRange."""

    _fields_ = [("location", _UInt), ("length", _UInt)]


_ERROR = ctypes.POINTER(_Id)
MESSAGES: dict[str, tuple[Any, list[Any]]] = {
    # any object
    "retain": (_Id, []),
    "release": (None, []),
    "respondsToSelector:": (_Bool, [_Id]),
    # NSString, NSError
    "stringWithUTF8String:": (_Id, [_Text]),
    "UTF8String": (_Text, []),
    "localizedDescription": (_Id, []),
    "code": (ctypes.c_long, []),
    # MTLDevice
    "name": (_Id, []),
    "recommendedMaxWorkingSetSize": (ctypes.c_uint64, []),
    "currentAllocatedSize": (_UInt, []),
    "maxBufferLength": (_UInt, []),
    "maxThreadgroupMemoryLength": (_UInt, []),
    "newCommandQueue": (_Id, []),
    "newBufferWithLength:options:": (_Id, [_UInt, _UInt]),
    "newBufferWithBytesNoCopy:length:options:deallocator:": (_Id, [_Id, _UInt, _UInt, _Id]),
    "newLibraryWithSource:options:error:": (_Id, [_Id, _Id, _ERROR]),
    "newComputePipelineStateWithFunction:error:": (_Id, [_Id, _ERROR]),
    # MTLCompileOptions
    "new": (_Id, []),
    "setFastMathEnabled:": (None, [_Bool]),
    "setMathMode:": (None, [ctypes.c_long]),
    # MTLLibrary, MTLComputePipelineState, MTLBuffer
    "newFunctionWithName:": (_Id, [_Id]),
    "maxTotalThreadsPerThreadgroup": (_UInt, []),
    "contents": (_Id, []),
    "length": (_UInt, []),
    # MTLCommandQueue, MTLCommandBuffer
    "commandBuffer": (_Id, []),
    "computeCommandEncoder": (_Id, []),
    "commit": (None, []),
    "waitUntilCompleted": (None, []),
    "status": (_UInt, []),
    "error": (_Id, []),
    # MTLComputeCommandEncoder
    "setComputePipelineState:": (None, [_Id]),
    "setBuffers:offsets:withRange:": (None, [ctypes.POINTER(_Id), ctypes.POINTER(_UInt), Range]),
    "dispatchThreadgroups:threadsPerThreadgroup:": (None, [Size, Size]),
    "endEncoding": (None, []),
}
"""What a message returns and takes."""


@cache
def _libraries() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """The run time and Metal. Raises OSError where this system has none."""
    loaded = [ctypes.CDLL(path) for path in LIBRARIES]
    runtime, metal = loaded[0], loaded[-1]
    for name, arguments in (
        ("sel_registerName", [_Text]),
        ("objc_getClass", [_Text]),
        ("objc_autoreleasePoolPush", []),
    ):
        function = getattr(runtime, name)
        function.restype, function.argtypes = _Id, arguments
    runtime.objc_autoreleasePoolPop.restype = None
    runtime.objc_autoreleasePoolPop.argtypes = [_Id]
    metal.MTLCreateSystemDefaultDevice.restype = _Id
    return runtime, metal


def forget() -> None:
    """Look for the libraries anew."""
    _libraries.cache_clear()
    _message.cache_clear()


def default_device() -> int | None:
    """Metal's device, owned by the caller; None where this system has none."""
    try:
        _, metal = _libraries()
    except OSError:
        return None
    device: int | None = metal.MTLCreateSystemDefaultDevice()
    return device


def missing() -> str | None:
    """What keeps this machine from running Metal; None if it can."""
    device = default_device()
    if device is None:
        return "no Metal on this machine: it is a part of macOS"
    send(device, "release")
    return None


def message(name: str) -> Callable[..., Any]:
    """A function that sends a message: `message("contents")(buffer)`."""
    return _message(name)


@cache
def _message(name: str) -> Callable[..., Any]:
    runtime, _ = _libraries()
    result, arguments = MESSAGES[name]
    # The same function, called as each of its methods is: by that method's types.
    prototype = ctypes.CFUNCTYPE(result, _Id, _Id, *arguments)
    function = prototype(ctypes.cast(runtime.objc_msgSend, _Id).value or 0)
    selector = _Id(runtime.sel_registerName(name.encode()))
    return lambda target, *given: function(target, selector, *given)


def send(target: int | None, name: str, *arguments: Any) -> Any:
    """Send one message."""
    return message(name)(target, *arguments)


def responds(target: int, name: str) -> bool:
    """Whether an object has a method."""
    runtime, _ = _libraries()
    known: bool = send(target, "respondsToSelector:", runtime.sel_registerName(name.encode()))
    return known


def class_named(name: str) -> int:
    """Raises BackendError where there is none."""
    runtime, _ = _libraries()
    found: int | None = runtime.objc_getClass(name.encode())
    if found is None:
        raise BackendError(f"this system's Metal has no {name}")
    return found


@contextmanager
def pool() -> Iterator[None]:
    """Objects that nobody owns live until its end."""
    runtime, _ = _libraries()
    opened = runtime.objc_autoreleasePoolPush()
    try:
        yield
    finally:
        runtime.objc_autoreleasePoolPop(opened)


def string(text: str) -> int:
    """An NSString, the pool's."""
    made: int = send(class_named("NSString"), "stringWithUTF8String:", text.encode())
    return made


def text_of(string: int | None) -> str:
    """The text of an NSString."""
    raw: bytes | None = send(string, "UTF8String") if string else None
    return "" if raw is None else raw.decode(errors="replace")
