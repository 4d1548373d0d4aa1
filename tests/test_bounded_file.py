"""Files that are read whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm import bounded_file
from edgellm.errors import FormatError, UsageError


def test_a_file_up_to_the_limit_is_read(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"abcd")
    assert bounded_file.read(file, 4) == b"abcd"
    with pytest.raises(FormatError, match="size is 4; up to 3 bytes are allowed"):
        bounded_file.read(file, 3)


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(UsageError, match=str(path)):
            bounded_file.read(path, 1 << 20)
