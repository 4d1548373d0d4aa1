"""backends/cpu/compiler.py: which compiler is taken, and where its kernels are kept."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edgellm.errors import BackendError
from edgellm_backends.cpu import compiler

KERNEL = """typedef int int4 __attribute__((aligned(16),ext_vector_type(4)));
void k(int4* restrict out, int4* restrict in) { *out = *in * *in; }
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CC", "CACHEDB", "CACHE_DIRECTORY", "DEV", "PARALLEL"):
        monkeypatch.setenv(name, "")  # so that what `prepare` sets is taken back
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "edgellm"


def any_compiler() -> Path:
    try:
        return compiler.find_compiler()
    except BackendError as error:
        pytest.skip(str(error))


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def hide_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)


def test_compiles_what_tinygrad_hands_it() -> None:
    done = subprocess.run(
        [any_compiler(), "-c", "-x", "c", "-O2", "-ffreestanding", "-", "-o", "-"],
        input=KERNEL.encode(),
        capture_output=True,
        check=True,
    )
    assert done.stdout.startswith(b"\x7fELF")


def test_a_syntax_error_is_told() -> None:
    done = subprocess.run(
        [any_compiler(), "-c", "-x", "c", "-", "-o", "-"], input=b"void k( {", capture_output=True
    )
    assert done.returncode != 0
    assert b"error" in done.stderr


def test_is_found_in_the_cache_without_being_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = any_compiler()
    monkeypatch.setattr(compiler, "works", lambda command: pytest.fail("tried again"))
    assert compiler.find_compiler() == first


def test_lies_in_the_cache_folder(cache: Path) -> None:
    found = any_compiler()
    assert found.is_relative_to(cache)
    assert found.stat().st_mode & stat.S_IXUSR


def test_cc_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = compiler.candidates()[0] if any_compiler() else ()
    mine = script(tmp_path / "my clang", f'exec "{real[0]}" {" ".join(real[1:])} "$@"')
    monkeypatch.setenv("CC", f"'{mine}' -Wall")
    assert f"'{mine}' -Wall" in compiler.find_compiler().read_text()


@pytest.mark.parametrize("refused", ["gcc", "/nonexistent/clang", "false", "true"])
def test_cc_that_is_no_clang_is_passed_over(refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = any_compiler()
    monkeypatch.setenv("CC", refused)
    assert compiler.find_compiler() == expected


def test_cc_that_no_shell_would_take_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "'")
    with pytest.raises(BackendError, match=r"CC is \"'\": No closing quotation"):
        compiler.find_compiler()


def test_without_a_home_another_folder_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(BackendError, match=r"no home folder.*XDG_CACHE_HOME"):
        compiler.find_compiler()


def test_our_own_wrapper_in_cc_is_nobody_s_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    expected = compiler.candidates()
    monkeypatch.setenv("CC", str(any_compiler()))  # as a process leaves it to its children
    monkeypatch.setenv("XDG_CACHE_HOME", "/nonexistent/cache of another")
    assert compiler.candidates() == expected


def test_the_systems_clang_comes_before_the_wheels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clang = script(tmp_path / "bin" / "clang", "exit 1")
    monkeypatch.setenv("PATH", f"{clang.parent}:{os.environ['PATH']}")
    assert compiler.candidates()[0] == (str(clang),)


def test_none_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hide_the_wheel(monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendError, match=r"needs clang.*pip install 'edgellm\[compiler\]'"):
        compiler.find_compiler()


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    any_compiler()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BackendError, match="XDG_CACHE_HOME"):
        compiler.find_compiler()


def test_each_processor_and_compiler_has_its_own_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = (str(script(tmp_path / "one", "exit 0")),)
    two = (str(script(tmp_path / "two", "exit 0")),)
    keys = {compiler.machine_key(one), compiler.machine_key(two)}
    monkeypatch.setattr(compiler, "PROCESSOR_FILE", script(tmp_path / "cpuinfo", "flags: neon"))
    keys |= {compiler.machine_key(one)}
    assert len(keys) == 3
    assert compiler.machine_key(one) in keys


def test_the_key_ignores_what_changes_from_boot_to_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(compiler, "PROCESSOR_FILE", cpuinfo)
    command = (sys.executable,)
    cpuinfo.write_text("model name\t: Cortex\nflags\t: a b\ncpu MHz\t: 1000\n")
    before = compiler.machine_key(command)
    cpuinfo.write_text("model name\t: Cortex\nflags\t: a b\ncpu MHz\t: 2400\n")
    assert compiler.machine_key(command) == before


def test_prepare_sets_what_tinygrad_reads() -> None:
    any_compiler()
    code = (
        "from edgellm_backends.cpu import compiler; compiler.prepare(); compiler.prepare();"
        "import os; from tinygrad import Tensor, helpers;"
        "assert Tensor([1.5, 2]).exp2().sum().item() > 6;"
        "print(os.environ['DEV'], os.environ['PARALLEL'], helpers.CACHEDB, os.environ['CC'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    device, parallel, kernels, command = done.stdout.split()
    assert (device, parallel) == ("CPU", "0")
    assert Path(kernels) == Path(command).with_name("kernels.db")
    assert Path(kernels).stat().st_size > 0


def test_tinygrad_that_was_there_before_is_turned_to_the_cpu() -> None:
    any_compiler()
    code = (
        "from tinygrad import Device, Tensor, helpers; from edgellm_backends.cpu import compiler;"
        "compiler.prepare(); assert Tensor([1.5, 2]).exp2().sum().item() > 6;"
        "print(Device.DEFAULT, helpers.PARALLEL.value)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["CPU", "0"]


@pytest.mark.parametrize(
    ("before", "after"), [("", "CPU"), ("CL", "CPU"), ("1", "CPU"), ("CPU:X86", "CPU:X86")]
)
def test_another_device_gives_way_and_another_renderer_stays(
    monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    any_compiler()
    monkeypatch.setenv("DEV", before)
    code = "import os; from edgellm_backends.cpu import compiler; compiler.prepare(); "
    done = subprocess.run(
        [sys.executable, "-c", code + "print(os.environ['DEV'])"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == after


def test_a_folder_where_no_program_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    any_compiler()
    monkeypatch.setattr(compiler, "FLAGS", ("-O1",))
    real = os.access  # says no in a file system that is mounted noexec
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path).name != "cc" and real(path, mode)
    )
    with pytest.raises(BackendError, match=r"noexec.*XDG_CACHE_HOME"):
        compiler.find_compiler()


def test_a_cache_named_by_the_user_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    any_compiler()
    monkeypatch.setenv("CACHEDB", str(tmp_path / "mine.db"))
    compiler.prepare()
    assert os.environ["CACHEDB"] == str(tmp_path / "mine.db")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here to be refused")
def test_gcc_is_no_clang() -> None:
    assert not compiler.works(("gcc",))
