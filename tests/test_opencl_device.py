"""OpenCL's drivers: found or not, at work, and failing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgellm.errors import BackendError, FitError
from edgellm_backends.gpu import tuning
from edgellm_backends.gpu.binaries import BinaryCache
from edgellm_backends.gpu.sources import KERNELS
from edgellm_backends.opencl import OpenCLBackend
from edgellm_backends.opencl.device import OpenCLDevice
from edgellm_backends.opencl.library import check_vendors, error_of, vendor_files
from edgellm_backends.opencl.platforms import choose

DOUBLE = """
__kernel void twice(__global float *x, const int n, const float by) {
    int i = get_global_id(0);
    if (i < n) x[i] *= by;
}
"""


@pytest.fixture
def device() -> Iterator[OpenCLDevice]:
    if OpenCLBackend().probe() is None:
        pytest.skip("there is no OpenCL device here (Debian's pocl-opencl-icd runs on any CPU)")
    opened = OpenCLDevice(choose())
    yield opened
    opened.close()
    opened.close()


def test_memory_views_and_kernels(device: OpenCLDevice) -> None:
    alignment = device.about.alignment
    memory = device.allocate(4 * alignment)
    values = np.arange(alignment, dtype=np.float32)
    device.write(memory, values)
    view = device.view(memory, alignment, 2 * alignment)
    launch = device.program(DOUBLE).launch("twice", [view, 10, 3.0], 4)
    launch((3, 1, 1))
    device.copy(memory, alignment, 3 * alignment, 8)
    found = np.zeros_like(values)
    device.read(memory, found)
    first, last = alignment // 4, 3 * alignment // 4
    values[first : first + 10] *= 3
    values[last : last + 2] = values[first : first + 2]
    np.testing.assert_array_equal(found, values)


def test_a_compiler_that_fails_is_quoted(device: OpenCLDevice) -> None:
    with pytest.raises(BackendError, match=r"its compiler fails: .*error") as caught:
        device.program("__kernel void broken( {")
    assert "\n" not in str(caught.value)
    with pytest.raises(BackendError, match="kernel absent: CL_INVALID_KERNEL_NAME"):
        device.program(DOUBLE).launch("absent", [], 1)


def test_groups_that_are_too_large_are_refused(device: OpenCLDevice) -> None:
    memory = device.allocate(64)
    launch = device.program(DOUBLE).launch("twice", [memory, 1, 1.0], device.about.items * 2)
    with pytest.raises(BackendError, match=r"CL_INVALID_WORK_(GROUP|ITEM)_SIZE"):
        launch((1, 1, 1))


def test_memory_that_is_not_there(device: OpenCLDevice) -> None:
    with pytest.raises(FitError, match="no memory left"):
        device.allocate(1 << 60)


def test_errors_by_name() -> None:
    assert isinstance(error_of(-4, "x"), FitError)
    assert "CL_OUT_OF_RESOURCES" in str(error_of(-5, "x"))
    assert "OpenCL error -777" in str(error_of(-777, "x"))


def test_drivers_that_crash_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pocl.icd", "rusticl.icd"):
        (tmp_path / name).write_text("lib.so\n")
    monkeypatch.delenv("OPENCL_VENDOR_PATH", raising=False)
    monkeypatch.setenv("OCL_ICD_VENDORS", str(tmp_path))
    with pytest.raises(BackendError, match=r"choose one: set OCL_ICD_VENDORS to .*pocl"):
        check_vendors(vendor_files())
    monkeypatch.setenv("OCL_ICD_VENDORS", str(tmp_path / "pocl.icd"))
    check_vendors(vendor_files())


@pytest.mark.parametrize("vendors", ["", "rusticl.icd"])
def test_without_a_driver(vendors: str, tmp_path: Path) -> None:
    """Each in a process of its own: what is loaded stays loaded."""
    if vendors:
        (tmp_path / vendors).write_text("no-such-library.so\n")
    done = subprocess.run(
        [sys.executable, "-m", "edgellm", "run", "--device", "opencl", "-p", "x"],
        env={**os.environ, "OCL_ICD_VENDORS": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    hint = "RUSTICL_ENABLE" if vendors else "pocl-opencl-icd"
    assert "can't run here" in done.stderr
    assert hint in done.stderr


def test_compiled_programs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    cache = BinaryCache("opencl", "driver 1")
    assert cache.find("source") is None
    cache.keep("source", b"program")
    assert cache.find("source") == b"program"
    assert cache.find("other") is None
    assert BinaryCache("opencl", "driver 2").find("source") is None
    (file,) = tmp_path.rglob("*.bin")
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert cache.find("source") is None
    file.write_bytes(b"")
    assert cache.find("source") is None


def test_a_cache_that_cannot_be_used_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cache = BinaryCache("opencl", "driver")
    cache.keep("source", b"program")
    assert cache.find("source") is None


def test_tuning_is_measured_once(
    device: OpenCLDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    language = OpenCLBackend.language
    texts = {path.name: path.read_text() for path in (*KERNELS.iterdir(), language)}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    found = tuning.tuned(device, "opencl", texts)
    assert found in tuning.candidates(device.about)
    (file,) = tmp_path.rglob("tuning-*.json")
    other = next(each for each in tuning.candidates(device.about) if each != found)
    file.write_text(str(vars(other)).replace("'", '"'))
    assert tuning.tuned(device, "opencl", texts) == other
    for nonsense in ("", "[]", '{"wide": 3, "splits": 1, "beside": 1}', "\xff"):
        file.write_text(nonsense)
        assert tuning.tuned(device, "opencl", texts) in tuning.candidates(device.about)
