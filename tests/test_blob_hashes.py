"""edgellm/blob_hashes.py: what is damaged is named, whoever finds it."""

from __future__ import annotations

import hashlib
import threading

import pytest

from edgellm.blob_hashes import BlobHashes
from edgellm.errors import FormatError
from edgellm.manifest import Blob

PARTS = {f"part {n}": memoryview(bytes([n]) * (n + 1) * 1000) for n in range(20)}
BLOBS = [
    Blob(name, 0, part.nbytes, hashlib.sha256(part).hexdigest()) for name, part in PARTS.items()
]


def damaged(name: str) -> dict[str, memoryview]:
    return {**PARTS, name: memoryview(b"else")}


def test_sound_blobs_pass() -> None:
    before = threading.active_count()
    with BlobHashes(PARTS, BLOBS, "m.edge") as hashes:
        hashes.require("part 3")
    assert threading.active_count() == before


@pytest.mark.parametrize("name", ["part 0", "part 7", "part 19"])
def test_a_damaged_one_is_named_at_the_end(name: str) -> None:
    with (
        pytest.raises(FormatError, match=f"m.edge: {name} is .*damaged"),
        BlobHashes(damaged(name), BLOBS, "m.edge"),
    ):
        pass


def test_a_damaged_one_that_is_required_is_named_at_once() -> None:
    hashes = BlobHashes(damaged("part 7"), BLOBS, "m.edge")
    hashes.require("part 6")
    with pytest.raises(FormatError, match="part 7"):
        hashes.require("part 7")


def test_another_error_goes_first() -> None:
    with pytest.raises(KeyError), BlobHashes(damaged("part 7"), BLOBS, "m.edge"):
        raise KeyError


def test_where_no_thread_can_be_had_all_are_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    with BlobHashes(PARTS, BLOBS, "m.edge"):
        pass
    with (
        pytest.raises(FormatError, match="part 0"),
        BlobHashes(damaged("part 0"), BLOBS, "m.edge"),
    ):
        pass
