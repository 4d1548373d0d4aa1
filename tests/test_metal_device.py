"""backends/metal/device.py on the fake of Metal: memory, launches in order, and what fails."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import fake_metal
import numpy as np
import pytest
from fake_metal import FakeMetal
from numpy.typing import NDArray

from edgellm.errors import BackendError, FitError
from edgellm_backends.metal import objc
from edgellm_backends.metal.device import AT_ONCE, MetalDevice

SOURCE = """#include <metal_stdlib>
using namespace metal;
kernel void add(device float *out, device const float *x, constant int &count,
                constant float &more, uint3 at [[thread_position_in_grid]]) {
    if ((int)at.x < count) out[at.x] = x[at.x] + more;
}
kernel void total(device float *out, device const float *x,
                  uint3 group [[threadgroup_position_in_grid]],
                  uint3 item [[thread_position_in_threadgroup]],
                  uint3 size [[threads_per_threadgroup]]) {
    threadgroup float shared[64];
    shared[item.x] = x[group.x * size.x + item.x];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float sum = 0.0f;
    for (uint i = 0; i < size.x; i++) sum += shared[i];
    out[group.x] = sum;
}
"""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMetal]:
    with fake_metal.installed(monkeypatch) as found:
        yield found


@pytest.fixture
def device(fake: FakeMetal) -> Iterator[MetalDevice]:
    opened = MetalDevice()
    yield opened
    opened.close()
    opened.close()


def numbers(count: int) -> NDArray[np.float32]:
    return np.arange(count, dtype=np.float32)


def test_what_it_says_of_itself(device: MetalDevice) -> None:
    about = device.about
    assert (about.name, about.memory, about.largest) == ("Fake M1", 1 << 36, 1 << 35)
    assert about.half
    assert tuple(about.wide) == (4, 1)


def test_memory_is_written_read_and_copied(device: MetalDevice) -> None:
    memory = device.allocate(64)
    device.write(memory, numbers(16))
    device.write(device.view(memory, 32, 32), numbers(2), 4)
    device.copy(memory, 0, 48, 16)
    found = np.empty(16, np.float32)
    device.read(memory, found)
    assert found.tolist() == [*range(9), 0, 1, 11, 0, 1, 2, 3]


@pytest.mark.parametrize("page", [mmap.PAGESIZE, 16384])
@pytest.mark.parametrize("offset", [0, 64, 4096, 5000 * 4])
def test_bytes_are_used_in_place(
    device: MetalDevice,
    fake: FakeMetal,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    offset: int,
    page: int,
) -> None:
    """Macs have pages of 16 KiB, and Metal takes only whole ones."""
    fake.set(page=page)
    monkeypatch.setattr(mmap, "PAGESIZE", page)
    file = tmp_path / "weights"
    numbers(9 * 1024).tofile(file)
    data = mapped(file, page)[offset : offset + 400]
    held = device.hold(data)
    assert held.address == data.ctypes.data
    out = device.allocate(400)
    device.program(SOURCE).launch("add", [out, held, 100, 0.5], 32)((4, 1, 1))
    found = np.empty(100, np.float32)
    device.read(out, found)
    np.testing.assert_array_equal(found, numbers(9 * 1024)[offset // 4 :][:100] + 0.5)


def mapped(file: Path, page: int) -> NDArray[np.uint8]:
    """A file of nine pages, mapped somewhere where pages of that size begin."""
    kept = []
    while True:
        with file.open("rb") as opened:
            kept.append(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
        data = np.frombuffer(memoryview(kept[-1]), np.uint8)
        if data.ctypes.data % page == 0:
            return data
        assert len(kept) < 100


def test_what_isnt_mapped_is_copied(device: MetalDevice, fake: FakeMetal, tmp_path: Path) -> None:
    data = numbers(9 * 1024)
    data.tofile(tmp_path / "weights")
    fake.set(never_in_place=1)
    for each in (data, mapped(tmp_path / "weights", mmap.PAGESIZE)):
        held = device.hold(each)
        assert held.address != each.ctypes.data
        found = np.empty(data.size, np.float32)
        device.read(held, found)
        np.testing.assert_array_equal(found, data)
    assert fake.in_place() == 0


def test_launches_run_one_after_the_other(device: MetalDevice, fake: FakeMetal) -> None:
    program = device.program(SOURCE)
    one, other = device.allocate(256), device.allocate(256)
    device.write(one, numbers(64))
    there = program.launch("add", [other, one, 64, 1.0], 64)
    back = program.launch("add", [one, other, 64, -0.5], 64)
    before = fake.launches()
    for _ in range(AT_ONCE + 3):
        there((1, 1, 1))
        back((1, 1, 1))
    assert fake.launches() == before, "nothing runs before it is waited for"
    found = np.empty(64, np.float32)
    device.read(one, found)
    assert fake.launches() == before + 2 * AT_ONCE + 6
    np.testing.assert_array_equal(found, numbers(64) + (AT_ONCE + 3) / 2)


def test_threads_of_a_group_in_step(device: MetalDevice) -> None:
    out, x = device.allocate(16), device.allocate(1024)
    device.write(x, numbers(256))
    device.program(SOURCE).launch("total", [out, x], 64)((4, 1, 1))
    found = np.empty(4, np.float32)
    device.read(out, found)
    np.testing.assert_array_equal(found, numbers(256).reshape(4, 64).sum(axis=1))


def test_many_launches_have_room_for_their_numbers(device: MetalDevice) -> None:
    program = device.program(SOURCE)
    out, x = device.allocate(4), device.allocate(4)
    launches = [program.launch("add", [out, x, 1, place / 4], 1) for place in range(3000)]
    found = np.empty(1, np.float32)
    for place in (0, 1, 1023, 1024, 2999):
        launches[place]((1, 1, 1))
        device.read(out, found)
        assert found[0] == place / 4


def test_newer_systems_have_another_name_for_exact_mathematics(fake: FakeMetal) -> None:
    fake.set(newest=1)
    device = MetalDevice()
    device.program(SOURCE)
    device.close()
    fake.set(newest=0)


def test_where_there_is_no_metal(
    fake: FakeMetal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake.set(devices=0)
    with pytest.raises(BackendError, match="no Metal on this machine: it is a part of macOS"):
        MetalDevice()
    objc.forget()
    monkeypatch.setattr(objc, "LIBRARIES", (str(tmp_path / "none"),))
    with pytest.raises(BackendError, match="no Metal on this machine"):
        MetalDevice()


def test_a_queue_that_isnt_given(fake: FakeMetal) -> None:
    fake.set(fail_queue=1)
    with pytest.raises(BackendError, match="Fake M1 gives no command queue"):
        MetalDevice()


def test_memory_that_isnt_there(device: MetalDevice, fake: FakeMetal) -> None:
    fake.set(fail_allocation=1)
    with pytest.raises(FitError, match=r"Fake M1 has no memory left for 1\.0 KiB; a shorter"):
        device.allocate(1024)
    device.allocate(1 << 35)
    with pytest.raises(FitError, match=r"lets programs use 64\.0 GiB, needed is 64\.0 GiB"):
        device.allocate(1 << 35)
    with pytest.raises(FitError, match=r"has buffers of up to 32\.0 GiB, needed is one of 32\.0"):
        device.allocate((1 << 35) + 1)


def test_source_that_doesnt_compile(device: MetalDevice) -> None:
    with pytest.raises(BackendError, match=r"Metal cannot compile the kernels: .*undeclared"):
        device.program(SOURCE.replace("+ more", "+ less"))
    with pytest.raises(BackendError, match="there is no double"):
        device.program(SOURCE.replace("float sum", "double sum"))


def test_kernels_that_cant_run(device: MetalDevice, fake: FakeMetal) -> None:
    program = device.program(SOURCE)
    with pytest.raises(BackendError, match="there is no kernel 'nothing'"):
        program.launch("nothing", [], 1)
    fake.set(fail_pipeline=1)
    with pytest.raises(BackendError, match="Fake M1 cannot run add: no place for registers"):
        program.launch("add", [], 1)
    fake.set(fail_pipeline=0, max_threads=256)
    with pytest.raises(BackendError, match="this GPU runs add with 256 threads a group, not 512"):
        program.launch("add", [], 512)


@pytest.mark.parametrize(
    ("code", "said", "kind"),
    [
        (2, "a kernel ran for too long", BackendError),
        (8, "the GPU's memory is full .*; a shorter context", FitError),
        (11, "the GPU has been removed", BackendError),
        (99, "error 99", BackendError),
    ],
)
def test_work_that_is_given_up(
    device: MetalDevice, fake: FakeMetal, code: int, said: str, kind: type[Exception]
) -> None:
    out, x = device.allocate(4), device.allocate(4)
    launch = device.program(SOURCE).launch("add", [out, x, 1, 1.0], 1)
    fake.set(fail_command=code, fail_command_in=2)
    for _ in range(AT_ONCE * 3):
        launch((1, 1, 1))
    with pytest.raises(kind, match=f"Fake M1 has given up the model's work: {said}"):
        device.finish()
    launch((1, 1, 1))
    device.finish()


def test_closed_while_work_is_under_way(fake: FakeMetal) -> None:
    device = MetalDevice()
    out, x = device.allocate(4), device.allocate(4)
    launch = device.program(SOURCE).launch("add", [out, x, 1, 1.0], 1)
    for _ in range(AT_ONCE + 1):
        launch((1, 1, 1))
    device.close()
    with pytest.raises(ValueError, match="has been closed"):
        device.allocate(4)
    with pytest.raises(ValueError, match="has been closed"):
        launch((1, 1, 1))
