"""MicroPython for real, without a board: its WebAssembly build, run by node.

`python tests/micropython.py` downloads the build (by npm, 0.2 MB) and unpacks it into a folder of
the user's cache. Nothing is installed and no privilege is needed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

PACKAGE = "@micropython/micropython-webassembly-pyscript@1.27.0"
SHA256 = "303919763c8ebfe5923b9da66226c20dce44ad72b604b225fb39338ea15367af"
CLIENTS = Path(__file__).resolve().parents[1] / "boards" / "clients"
RUNNER = Path(__file__).with_name("micropython_process.mjs")


def folder() -> Path:
    """Where MicroPython is, or would be: another folder for another build."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "edgellm" / f"micropython-{SHA256[:12]}"


def download(target: Path) -> None:
    """Get MicroPython and put it at `target` at once.

    Raises CalledProcessError or OSError where npm isn't there or can't download, ValueError for
    another build than the one that is known.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        command = ("npm", "pack", "--silent", "--pack-destination", name, PACKAGE)
        subprocess.run(command, check=True, cwd=name, stdout=sys.stderr)
        (archive,) = Path(name).glob("*.tgz")
        if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
            raise ValueError(f"{PACKAGE} isn't the build that is known; check it, and SHA256 here")
        shutil.unpack_archive(archive, name, "gztar")
        (Path(name) / "package").rename(target)


def missing(where: Path) -> str | None:
    """Why MicroPython can't be run here and what helps, or None if it can."""
    if shutil.which("node") is None:
        return "node, which runs MicroPython, is not installed"
    if not where.is_dir():
        return "there is no MicroPython to run; get it: python tests/micropython.py"
    return None


def run(where: Path, script: str, exchange: Callable[[bytes], bytes], timeout: float) -> list[str]:
    """Run a script with the clients' folder on its path; returns the lines that it printed.

    The script calls `exchange(hex)` of the module `test`, which is answered by `exchange` here.
    Raises RuntimeError if the script fails, or takes more than `timeout` seconds.
    """
    command = ["node", str(RUNNER), str(where), str(CLIENTS)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        timer = threading.Timer(timeout, process.kill)
        timer.start()
        printed: list[str] = []
        process.stdin.write(json.dumps(script) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            if not line.startswith(">"):
                printed.append(line.removesuffix("\n")[1:])
                continue
            process.stdin.write(exchange(bytes.fromhex(line[1:])).hex() + "\n")
            process.stdin.flush()
        _, trouble = process.communicate()
        timer.cancel()
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode}: {trouble}")
    return printed


def main() -> None:
    target = folder()
    if not target.is_dir():
        download(target)
    print(target)


if __name__ == "__main__":
    main()
