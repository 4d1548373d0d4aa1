"""The secret that both ends of a link know: where it is kept, and what will do as one."""

from __future__ import annotations

import os
from pathlib import Path

from edgellm.errors import UsageError

VARIABLE = "EDGELLM_TOKEN"
LEAST, MOST = 16, 128
"""Characters: of base64, 96 bits at the least."""
HOW = "make one with: (umask 077; head -c 24 /dev/urandom | base64 > {path})"


def read(path: Path) -> bytes:
    """The secret in a file, one line that nobody but its owner may read.

    Raises UsageError for a file that can't be read, is open to others or holds no secret.
    """
    try:
        with path.open("rb") as file:
            if os.name == "posix" and os.fstat(file.fileno()).st_mode & 0o077:
                raise UsageError(f"{path}: other users may read the secret; chmod 600 {path}")
            text = file.read(4 * MOST).strip()
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; {HOW.format(path=path)}") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    return _checked(text, str(path), HOW.format(path=path))


def from_environment() -> bytes | None:
    """The secret in EDGELLM_TOKEN, if it's set. Raises UsageError for one that won't do."""
    text = os.environ.get(VARIABLE)
    if text is None:
        return None
    return _checked(os.fsencode(text.strip()), VARIABLE, "make one with: openssl rand -base64 24")


def _checked(text: bytes, where: str, how: str) -> bytes:
    if not LEAST <= len(text) <= MOST or not text.isascii() or not text.decode().isprintable():
        allowed = f"{LEAST} to {MOST} printable ASCII characters in one line"
        raise UsageError(f"{where}: a secret is {allowed}; {how}")
    return text
