"""JSON from outside: bounded in size, number of values and nesting; no duplicate keys, no NaN."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path

from edgellm.errors import FormatError, UsageError

MAX_NESTING = 32
MAX_DIGITS = 20
"""Longer integers fit into no 64-bit field."""
BYTES_A_VALUE = 16
"""A text of `limit` bytes may hold limit/16 values, since the shortest grow most when parsed."""


def read(path: str | Path, limit: int) -> dict[str, object]:
    """The object in a JSON file of at most `limit` bytes.

    Raises FormatError, UsageError where the file can't be opened.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > limit:
            raise FormatError(path, "size", size, f"up to {limit} bytes are allowed")
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    return parse(raw, path, limit)


def parse(raw: bytes, file: str | Path, limit: int) -> dict[str, object]:
    """The object that `raw` spells; `file` is named in errors. Raises FormatError."""
    values = sum(raw.count(mark) for mark in (b",", b"[", b"{"))
    if values > limit // BYTES_A_VALUE:
        allowed = f"up to {limit // BYTES_A_VALUE} are allowed"
        raise FormatError(file, "number of values", values, allowed)

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
