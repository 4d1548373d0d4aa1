"""What a model or a file says, on its way to this process's terminal."""

from __future__ import annotations

import re
import sys

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """The text without control characters, but for tabs and line breaks: they could move the
    cursor, change the colours or type for the user."""
    return _CONTROL.sub("", text)


def write(text: str) -> None:
    """Print a piece of text at once, in UTF-8 whatever the locale; to a terminal only what is
    printable, while a file or another program gets all of it."""
    if sys.stdout.isatty():
        text = printable(text)
    sys.stdout.buffer.write(text.encode(errors="replace"))
    sys.stdout.buffer.flush()
