"""Which files a model on the disk consists of, and how to tell whether they have changed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from edgellm.errors import UsageError

HEAD = 1 << 16
"""Bytes of each file that tell models of the same size and time apart."""
READ = {".json", ".safetensors", ".model", ".jinja"}
"""Suffixes of the files of a folder."""


def of(path: Path) -> list[Path]:
    """A file alone, all parts of a split one, or what is read of a folder; by name."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix in READ and file.is_file())
    split = re.fullmatch(r"(.*)-\d{5}(-of-\d{5}\.gguf)", path.name, re.DOTALL)
    if split is None:
        return [path]
    pattern = re.compile(re.escape(split[1]) + r"-\d{5}" + re.escape(split[2]))
    return sorted(file for file in path.parent.iterdir() if pattern.fullmatch(file.name))


def identity(path: Path) -> str:
    """A hash that tells a model from others, and from itself after a change, wherever it lies.

    Over names, sizes, times of change and first bytes: so it costs next to nothing. Raises
    UsageError where a file can't be read.
    """
    digest = hashlib.sha256()
    try:
        for file in of(path):
            about = file.stat()
            digest.update(f"{file.name}\0{about.st_size} {about.st_mtime_ns}\0".encode())
            with file.open("rb") as opened:
                digest.update(opened.read(HEAD))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    return digest.hexdigest()


def likeness(path: Path) -> str:
    """A hash of sizes, first and last bytes: the same for a copy, or a file that was only touched.

    Raises UsageError where a file can't be read.
    """
    digest = hashlib.sha256()
    try:
        for file in of(path):
            with file.open("rb") as opened:
                digest.update(opened.read(HEAD))
                size = opened.seek(0, 2)
                opened.seek(max(0, size - HEAD))
                digest.update(opened.read(HEAD) + f"\0{size}\0".encode())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    return digest.hexdigest()


def sha256(path: Path, read: Callable[[int], None] = lambda count: None) -> str:
    """Of a file's content; of several, over their hashes in order of their names.

    `read` is told of each piece how many bytes it had. Raises UsageError.
    """
    found = []
    try:
        for file in of(path):
            digest = hashlib.sha256()
            with file.open("rb") as opened:
                while piece := opened.read(8 << 20):
                    digest.update(piece)
                    read(len(piece))
            found.append(digest)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    if len(found) == 1:
        return found[0].hexdigest()
    return hashlib.sha256(b"".join(digest.digest() for digest in found)).hexdigest()
