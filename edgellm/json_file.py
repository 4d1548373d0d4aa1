"""JSON from outside: bounded in size, number of values and nesting; no duplicate keys, no NaN."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path

from edgellm import bounded_file
from edgellm.errors import FormatError

MAX_NESTING = 32
MAX_DIGITS = 20
"""Longer integers fit into no 64-bit field."""
ROOM = 56 << 20
GROWTH = 12
"""Reading may take ROOM bytes more than the text has, or GROWTH times as many for a large text: the
largest published vocabularies take ten times, a hostile text of empty lists thirty."""


def read(path: str | Path, limit: int) -> dict[str, object]:
    """The object in a JSON file of at most `limit` bytes.

    Raises FormatError, UsageError where the file can't be opened.
    """
    path = Path(path)
    return parse(bounded_file.read(path, limit), path)


def parse(raw: bytes, file: str | Path) -> dict[str, object]:
    """The object that `raw` spells; `file` is named in errors. Raises FormatError."""
    memory, most = _memory(raw), max(len(raw) + ROOM, GROWTH * len(raw))
    if memory > most:
        allowed = f"a text of {len(raw)} bytes may take {most}"
        raise FormatError(file, "memory for its values", memory, allowed)

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
            raise FormatError(file, "key", twice, "it must not occur twice in an object")
        return found

    def integer(text: str) -> int:
        if len(text) > MAX_DIGITS:
            raise FormatError(file, "number", text, f"up to {MAX_DIGITS} digits are allowed")
        return int(text)

    def decimal(text: str) -> float:
        number = float(text)
        if not math.isfinite(number):
            raise FormatError(file, "number", text, "it must be finite")
        return number

    try:
        found = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=unique,
            parse_int=integer,
            parse_float=decimal,
            parse_constant=decimal,
        )
    except UnicodeDecodeError as error:
        wrong = raw[error.start : error.start + 8]
        raise FormatError(file, f"text at byte {error.start}", wrong, "it must be UTF-8") from None
    except json.JSONDecodeError as error:
        near = error.doc[error.pos : error.pos + 20]
        allowed = f"that isn't JSON: {error.msg}"
        raise FormatError(file, f"text at line {error.lineno}", near, allowed) from None
    except RecursionError:
        found = None
        _refuse_nesting(file)
    if not isinstance(found, dict):
        raise FormatError(file, "content", type(found).__name__, "it must be an object")
    _check(found, file, lone_halves=_HALF.search(raw) is not None)
    return found


def _memory(raw: bytes) -> int:
    """About the bytes that parsing takes, the decoded text included, found without parsing."""
    width = 1 if raw.isascii() else 4 if _ASTRAL.search(raw) else 2
    containers = raw.count(b"[") + raw.count(b"{")
    return (1 + width) * len(raw) + 72 * containers + 32 * raw.count(b",") + 30 * raw.count(b'"')


# One character beyond U+FFFF makes all characters of a string four bytes wide.
_ASTRAL = re.compile(rb"[\xf0-\xf4]")

# A surrogate written out, which is a character only if its other half follows.
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


def _check(found: dict[str, object], file: str | Path, lone_halves: bool) -> None:
    """Refuse deep nesting, and strings that can't be written as UTF-8."""
    level: list[dict[str, object] | list[object]] = [found]
    for _ in range(MAX_NESTING):
        below: list[dict[str, object] | list[object]] = []
        for container in level:
            if lone_halves:
                _check_text(container, file)
            items = container.values() if isinstance(container, dict) else container
            below += [item for item in items if isinstance(item, dict | list)]
        if not below:
            return
        level = below
    _refuse_nesting(file)


def _check_text(container: dict[str, object] | list[object], file: str | Path) -> None:
    values = [*container, *container.values()] if isinstance(container, dict) else container
    for value in values:
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                allowed = "half a surrogate pair isn't a character"
                raise FormatError(file, "string", value, allowed) from None


def _refuse_nesting(file: str | Path) -> None:
    raise FormatError(file, "nesting", f"over {MAX_NESTING}", f"up to {MAX_NESTING} is allowed")
