"""Reading a small file whole, for which the caller knows how large it may be."""

from __future__ import annotations

from pathlib import Path

from edgellm.errors import FormatError, UsageError


def read(path: Path, limit: int) -> bytes:
    """The file's content. Raises FormatError for more than `limit` bytes, UsageError if it can't
    be opened."""
    try:
        size = path.stat().st_size
        if size > limit:
            raise FormatError(path, "size", size, f"up to {limit} bytes are allowed")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
