"""tests/metal: the fake notices what a Mac would crash on, leak or compute wrongly."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator

import fake_metal
import pytest
from fake_metal import FakeMetal

from edgellm_backends.metal import objc
from edgellm_backends.metal.objc import Range, Size, send

SOURCE = """#include <metal_stdlib>
using namespace metal;
kernel void f(device float *out, constant float4 &x, uint3 at [[thread_position_in_grid]]) {
    out[at.x] = x.x;
}
kernel void big(device float *out, uint3 item [[thread_position_in_threadgroup]]) {
    threadgroup float shared[9000];
    shared[item.x] = 1;
    out[item.x] = shared[item.x];
}
"""
ONE = Size(1, 1, 1)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMetal]:
    with fake_metal.installed(monkeypatch) as found:
        yield found


class Host:
    """The least that runs a kernel."""

    def __init__(self) -> None:
        self.device = objc.default_device() or 0
        options = send(objc.class_named("MTLCompileOptions"), "new")
        send(options, "setFastMathEnabled:", False)
        source = objc.string(SOURCE)
        self.library = send(
            self.device, "newLibraryWithSource:options:error:", source, options, None
        )
        self.function = send(self.library, "newFunctionWithName:", objc.string("f"))
        make = "newComputePipelineStateWithFunction:error:"
        self.pipeline = send(self.device, make, self.function, None)
        self.buffer = send(self.device, "newBufferWithLength:options:", 64, 0)
        self.queue = send(self.device, "newCommandQueue")
        send(options, "release")
        self.start()

    def start(self) -> None:
        self.command = send(self.queue, "commandBuffer")
        self.encoder = send(self.command, "computeCommandEncoder")

    def bind(self, *offsets: int) -> None:
        count = len(offsets)
        buffers = (ctypes.c_void_p * count)(*[self.buffer] * count)
        places = (ctypes.c_ulong * count)(*offsets)
        send(self.encoder, "setBuffers:offsets:withRange:", buffers, places, Range(0, count))

    def dispatch(self, groups: Size = ONE, threads: Size = ONE) -> None:
        name = "dispatchThreadgroups:threadsPerThreadgroup:"
        send(self.encoder, name, groups, threads)

    def ready(self) -> None:
        send(self.encoder, "setComputePipelineState:", self.pipeline)
        self.bind(0, 0)

    def run(self) -> None:
        send(self.encoder, "endEncoding")
        send(self.command, "commit")
        send(self.command, "waitUntilCompleted")

    def close(self) -> None:
        owned = (self.queue, self.buffer, self.pipeline, self.function, self.library, self.device)
        for each in owned:
            send(each, "release")


def twice_ended(host: Host) -> None:
    host.run()
    send(host.encoder, "endEncoding")


def late(host: Host) -> None:
    host.ready()
    host.run()
    host.dispatch()


def uncommitted(host: Host) -> None:
    send(host.encoder, "endEncoding")
    send(host.command, "waitUntilCompleted")


def without_end(host: Host) -> None:
    send(host.command, "commit")
    send(host.encoder, "endEncoding")
    send(host.command, "waitUntilCompleted")


def without_pipeline(host: Host) -> None:
    host.bind(0, 0)
    host.dispatch()
    host.run()


def prepared(*offsets: int, groups: Size = ONE, threads: Size = ONE) -> Callable[[Host], None]:
    def attempt(host: Host) -> None:
        send(host.encoder, "setComputePipelineState:", host.pipeline)
        host.bind(*offsets)
        host.dispatch(groups, threads)
        host.run()

    return attempt


def released(host: Host) -> None:
    buffer = send(host.device, "newBufferWithLength:options:", 64, 0)
    send(buffer, "release")
    send(buffer, "contents")
    host.run()


def released_too_often(host: Host) -> None:
    send(host.queue, "retain")
    send(host.pipeline, "release")
    host.ready()
    host.run()
    send(host.pipeline, "release")
    send(host.queue, "release")
    host.pipeline = 0


def of_another_kind(host: Host) -> None:
    send(host.encoder, "setComputePipelineState:", host.function)
    host.run()


def unknown(host: Host) -> None:
    send(host.queue, "contents")
    host.run()


def odd_pages(host: Host) -> None:
    make = "newBufferWithBytesNoCopy:length:options:deallocator:"
    send(send(host.device, make, 4096 * 16 + 64, 4096, 0, None), "release")
    host.run()


FAULTS: dict[Callable[[Host], None], str] = {
    twice_ended: "an encoder ends twice",
    late: "commands are encoded after endEncoding",
    uncommitted: "waited for that isn't committed",
    without_end: "committed while its encoder hasn't ended",
    without_pipeline: "no pipeline state is set",
    prepared(0): "f: x isn't bound",
    prepared(0, 56): "f: x has too few bytes",
    prepared(0, 8): "f: x isn't aligned",
    prepared(0, 64): "offset 64 in a buffer of 64 bytes",
    prepared(0, 0, threads=Size(1025, 1, 1)): "f: too many threads in a group",
    prepared(0, 0, groups=Size(0, 1, 1)): "f: nothing is dispatched",
    prepared(0, 0, threads=Size(64, 1, 1)): "f: a place out of a buffer",
    released: "contents is sent to a released MTLBuffer",
    released_too_often: "release is sent to a released MTLComputePipelineState",
    of_another_kind: "a MTLComputePipelineState is needed, and given is MTLFunction",
    unknown: "MTLCommandQueue doesn't know contents",
    odd_pages: "isn't of whole pages",
}


@pytest.mark.parametrize("attempt", FAULTS, ids=range(len(FAULTS)))
def test_what_is_done_wrong(fake: FakeMetal, attempt: Callable[[Host], None]) -> None:
    with objc.pool():
        host = Host()
        attempt(host)
        host.close()
    assert FAULTS[attempt] in "; ".join(fake.misuses())


def test_nothing_is_wrong_here(fake: FakeMetal) -> None:
    with objc.pool():
        host = Host()
        prepared(16, 0, groups=Size(2, 1, 1), threads=Size(3, 1, 1))(host)
        assert fake.alive() != ""
        host.close()


def test_what_nobody_releases(fake: FakeMetal) -> None:
    with objc.pool():
        host = Host()
        host.run()
        send(host.buffer, "retain")
        host.close()
    assert fake.alive() == "MTLBuffer"
    send(host.buffer, "release")


def test_without_a_pool(fake: FakeMetal) -> None:
    with objc.pool():
        host = Host()
        host.run()
    command = send(host.queue, "commandBuffer")
    assert fake.misuses() == ["MTLCommandBuffer is left to a pool, and there is none"]
    send(command, "release")
    host.close()


def test_fast_mathematics(fake: FakeMetal) -> None:
    with objc.pool():
        host = Host()
        host.run()
        make = "newLibraryWithSource:options:error:"
        send(send(host.device, make, objc.string(SOURCE), None, None), "release")
        host.close()
    assert fake.misuses() == ["mathematics would be fast, not exact"]


def test_too_much_threadgroup_memory(fake: FakeMetal) -> None:
    with objc.pool():
        host = Host()
        host.run()
        function = send(host.library, "newFunctionWithName:", objc.string("big"))
        error = ctypes.c_void_p()
        make = "newComputePipelineStateWithFunction:error:"
        assert send(host.device, make, function, ctypes.byref(error)) is None
        said = objc.text_of(send(error.value, "localizedDescription"))
        assert said == "more threadgroup memory than there is"
        send(function, "release")
        host.close()
