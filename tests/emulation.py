"""An aarch64 machine without hardware: Debian's Python and our dependencies, run by qemu.

`python tests/emulation.py` downloads Debian packages (by apt, from where this system has its own)
and wheels (by pip), about 40 MB, and unpacks them into a folder of the user's cache. Nothing is
installed and no privilege is needed. The folder holds neither a compiler nor tinygrad.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("python3", "libstdc++6")
PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_28_aarch64")
SITE = "usr/lib/python3/dist-packages"  # where Debian's Python looks

# The packages of another architecture without telling this system's apt and dpkg about it.
APT = """APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Sandbox::User "";
Acquire::Languages "none";
Debug::NoLocking "true";
Dir::State "{0}/state";
Dir::State::status "{0}/status";
Dir::Cache "{0}/cache";
"""


def emulator() -> str | None:
    """The program that runs aarch64 ones, if it is installed."""
    return shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")


def requirements() -> list[str]:
    """What a bundle needs to run: our dependencies without tinygrad, and signatures."""
    ours = importlib.metadata.requires("edgellm") or []
    needed = [r for r in ours if "extra ==" not in r and not r.startswith("tinygrad")]
    return [*needed, "cryptography"]


def root_folder() -> Path:
    """Where the machine's files are, or would be: another folder for another recipe."""
    recipe = "\n".join([*PACKAGES, *PLATFORMS, *requirements(), APT])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "edgellm" / f"aarch64-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def make_root(root: Path) -> None:
    """Download the machine's files and put them at `root` at once.

    Raises CalledProcessError or OSError where apt, dpkg-deb or pip isn't there or can't download.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as name:
        folder = Path(name)
        made = folder / "root"
        made.mkdir()
        _unpack_debian(folder, made)
        _unpack_wheels(folder, made)
        made.rename(root)


def _run(*command: str | Path, **environment: str) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, **environment})


def _unpack_debian(folder: Path, root: Path) -> None:
    (folder / "state/lists/partial").mkdir(parents=True)
    (folder / "cache/archives/partial").mkdir(parents=True)
    (folder / "status").touch()
    configuration = folder / "apt.conf"
    configuration.write_text(APT.format(folder))
    apt = ("apt-get", "-qq", "-y", "--no-install-recommends", "--download-only")
    _run("apt-get", "-qq", "update", APT_CONFIG=str(configuration))
    _run(*apt, "install", *PACKAGES, APT_CONFIG=str(configuration))
    for package in sorted((folder / "cache/archives").glob("*.deb")):
        _run("dpkg-deb", "-x", package, root)


def _unpack_wheels(folder: Path, root: Path) -> None:
    version = (root / "usr/bin/python3").readlink().name.removeprefix("python")
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    options = ["--only-binary=:all:", "--python-version", version, *platforms]
    pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
    _run(*pip, "-d", folder / "wheels", *options, *requirements())
    for wheel in sorted((folder / "wheels").glob("*.whl")):
        shutil.unpack_archive(wheel, root / SITE, "zip")


def copy_project(folder: Path) -> None:
    """Put edgellm, its packages and entry points, into a folder that may go onto PYTHONPATH."""
    ours = importlib.metadata.distribution("edgellm")
    for package in ("edgellm", "edgellm_backends", "edgellm_plugins", "edgellm_boards"):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(package)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(spec.origin).parent, folder / package, ignore=ignored)
    information = folder / f"edgellm-{ours.version}.dist-info"
    information.mkdir()
    named = f"Metadata-Version: 2.1\nName: edgellm\nVersion: {ours.version}\n"
    (information / "METADATA").write_text(named)
    (information / "entry_points.txt").write_text(ours.read_text("entry_points.txt") or "")


@dataclass(frozen=True)
class Machine:
    """The emulated machine with edgellm installed."""

    qemu: str
    root: Path
    project: Path

    def python(
        self,
        *arguments: str | Path,
        cpu: str = "cortex-a76",
        environment: Mapping[str, str] | None = None,
        answer: str = "",
        timeout: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Run Python there with what is typed into it; the result is as `subprocess.run` has it."""
        command: Sequence[str | Path] = (
            *(self.qemu, "-cpu", cpu, "-L", self.root),
            *(self.root / "usr/bin/python3", *arguments),
        )
        return subprocess.run(
            command,
            input=answer,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={
                "HOME": str(self.project),
                "LANG": "C.UTF-8",
                # Keys are this system's: what it builds is trusted there.
                **{k: v for k, v in os.environ.items() if k == "XDG_CONFIG_HOME"},
                "OPENBLAS_NUM_THREADS": "1",
                "PATH": str(self.root / "usr/bin"),
                "PYTHONPATH": str(self.project),
                **(environment or {}),
            },
        )


def main() -> None:
    root = root_folder()
    if not root.is_dir():
        make_root(root)
    print(root)


if __name__ == "__main__":
    main()
