"""Bundles: written, opened in place, and refused where anything about them is wrong."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgpack
import numpy as np
import pytest
import small_bundle

from edgellm import bundle, key_folder, manifest, signing
from edgellm.bundle_writer import ABANDONED_S, BundleWriter
from edgellm.errors import FitError, FormatError, TrustError, UnsupportedError, UsageError
from edgellm.executor import Target
from edgellm.key_folder import KeyFolder


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyFolder:
    return KeyFolder(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, keys: KeyFolder) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "small.edge"
    small_bundle.write_bundle(path, keys)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path, sound: bytes) -> Path:
    file = tmp_path / "small.edge"
    file.write_bytes(sound)
    return file


def test_a_backend_may_do_without_a_graph(path: Path, keys: KeyFolder) -> None:
    small_bundle.write_bundle(path, keys, graph=None)
    opened = bundle.open(path, keys)
    with pytest.raises(FormatError, match="graph is 'missing'; the backend needs it"):
        opened.graph  # noqa: B018 - it raises
    for tensor in small_bundle.tensors():
        np.testing.assert_array_equal(opened.tensors[tensor.name].float32(), tensor.values)


def test_what_was_written_is_found(path: Path, keys: KeyFolder) -> None:
    opened = bundle.open(path, keys)
    assert opened.graph == small_bundle.GRAPH
    assert opened.config == small_bundle.CONFIG
    assert opened.tokenizer == replace(small_bundle.VOCABULARY, file=str(path))
    assert opened.template == "{{ messages }}"
    assert opened.sampling == {"temperature": 0.5}
    assert opened.provenance == small_bundle.MANIFEST.provenance
    assert opened.target == Target("any", "x86_64", ("sse2",))
    assert opened.format == "edge"
    assert opened.voucher == "local"
    assert bytes(opened.blob("library")) == small_bundle.LIBRARY
    assert opened.blob("library").readonly
    for tensor in small_bundle.tensors():
        found = opened.tensors[tensor.name]
        assert found.shape == tensor.shape
        assert found.address % 64 == 0
        if found.format == manifest.PLAIN:
            np.testing.assert_array_equal(np.frombuffer(found.data, "<f4"), tensor.values)
    with pytest.raises(FormatError, match="blob 'shaders' is 'missing'"):
        opened.blob("shaders")


def test_blobs_lie_on_pages_and_are_hashed(path: Path, keys: KeyFolder, sound: bytes) -> None:
    offset, nbytes = np.frombuffer(sound[16:32], "<u8").tolist()
    content = msgpack.unpackb(sound[offset : offset + nbytes])
    assert {blob["name"] for blob in content["blobs"]} > {"library", "tokenizer", "large"}
    for blob in content["blobs"]:
        assert blob["offset"] % (64 << 10) == 0
        data = sound[blob["offset"] :][: blob["nbytes"]]
        assert hashlib.sha256(data).hexdigest() == blob["sha256"]


def test_a_flipped_bit_anywhere_is_refused(path: Path, keys: KeyFolder, sound: bytes) -> None:
    """Each bit of the header, and some of each part of the file: blobs, gaps, manifest, end."""
    offset, nbytes = np.frombuffer(sound[16:32], "<u8").tolist()
    end = offset + nbytes
    rng = random.Random(1)
    places = [*range(64 * 8)]
    for first, last in [(64, 1 << 16), (1 << 16, offset), (offset, end), (end, len(sound))]:
        places += [rng.randrange(first * 8, last * 8) for _ in range(60)]
    for place in places:
        altered = bytearray(sound)
        altered[place // 8] ^= 1 << place % 8
        path.unlink()
        path.write_bytes(altered)
        with pytest.raises(FormatError, match=r"small\.edge"):
            bundle.open(path, keys)


@pytest.mark.parametrize("size", [0, 1, 64, 65535, 65536, 100_000, -33, -32, -1])
def test_a_file_cut_short_is_refused(path: Path, keys: KeyFolder, sound: bytes, size: int) -> None:
    path.write_bytes(sound[:size])
    with pytest.raises(FormatError):
        bundle.open(path, keys)


def test_a_file_that_goes_on_is_refused(path: Path, keys: KeyFolder, sound: bytes) -> None:
    path.write_bytes(sound + b"\0")
    with pytest.raises(FormatError):
        bundle.open(path, keys)


@pytest.mark.parametrize(
    ("at", "value", "error", "said"),
    [
        (8, 2, UnsupportedError, "version is 2; this edgellm reads version 1"),
        (0, 0x46, FormatError, "first bytes"),
        (12, 1, FormatError, "header is 'not zero"),
        (22, 1, FormatError, "manifest's place"),
    ],
)
def test_another_header_is_refused(
    path: Path, sound: bytes, at: int, value: int, error: type[Exception], said: str
) -> None:
    altered = bytearray(sound)
    altered[at] = value
    path.write_bytes(altered)
    with pytest.raises(error, match=said):
        bundle.open(path, KeyFolder(path.parent / "none"))


def test_a_stranger_s_bundle_is_looked_at_but_not_run(path: Path, keys: KeyFolder) -> None:
    strangers = KeyFolder(path.parent / "others")
    with pytest.raises(TrustError, match="built on another machine and signed for that one alone"):
        bundle.open(path, strangers)
    opened = bundle.open(path, strangers, inspect=True)
    assert opened.voucher == ""
    assert opened.config == small_bundle.CONFIG


def test_a_key_s_bundle_is_run_where_the_key_is_trusted(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    builder, user = KeyFolder(tmp_path / "builder"), KeyFolder(tmp_path / "user")
    key = builder.new("anna")
    path = tmp_path / "model.edge"
    small_bundle.write_bundle(path, builder, "anna")
    with pytest.raises(TrustError) as refused:
        bundle.open(path, user)
    assert "anna" in str(refused.value)
    assert key.fingerprint in str(refused.value)
    assert f"edgellm keys trust {path}" in str(refused.value)
    assert bundle.signers(path) == [key]
    user.trust(key)
    opened = bundle.open(path, user)
    assert (opened.voucher, opened.signers) == ("anna", [key])
    user.remove("anna")
    with pytest.raises(TrustError):
        bundle.open(path, user)


def test_a_signature_under_another_name_or_by_another_key_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    keys, path = KeyFolder(tmp_path / "keys"), tmp_path / "model.edge"
    keys.new("anna")
    keys.new("bob")
    small_bundle.write_bundle(path, keys, "anna")
    raw = path.read_bytes()
    offset, nbytes = np.frombuffer(raw[16:32], "<u8").tolist()
    local, signed = msgpack.unpackb(raw[offset + nbytes : -32])
    other = next(key.data for key in keys.trusted() if key.name == "bob")
    for change in ((1, other), (2, bytes(64)), (3, "bob")):
        altered = list(signed)
        altered[change[0]] = change[1]
        packed = msgpack.packb([local, altered])
        path.unlink()
        path.write_bytes(raw[: offset + nbytes] + packed + hashlib.sha256(packed).digest())
        with pytest.raises(FormatError, match="altered after it was signed"):
            bundle.open(path, keys, inspect=True)


def test_no_signature_at_all_is_refused(path: Path, keys: KeyFolder, sound: bytes) -> None:
    offset, nbytes = np.frombuffer(sound[16:32], "<u8").tolist()
    path.write_bytes(sound[: offset + nbytes] + bundle.pack_signatures([]))
    with pytest.raises(TrustError, match="nobody has signed it"):
        bundle.open(path, keys)


def test_what_is_no_file_is_refused(tmp_path: Path, keys: KeyFolder) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        bundle.open(tmp_path / "nowhere", keys)
    with pytest.raises(UsageError):
        bundle.open(tmp_path, keys)
    assert not bundle.is_bundle(tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_unfinished_bundle_leaves_nothing_behind(
    tmp_path: Path, keys: KeyFolder, error: type[BaseException]
) -> None:
    path = tmp_path / "small.edge"
    path.write_text("the former one")

    def begin() -> None:
        with BundleWriter(path) as writer:
            writer.blob("library", bytes(1 << 20))
            assert len(list(tmp_path.iterdir())) == 2
            raise error

    with pytest.raises(error):
        begin()
    assert [file.name for file in tmp_path.iterdir()] == ["small.edge"]
    assert path.read_text() == "the former one"


def test_a_killed_writer_s_draft_goes_with_the_next(tmp_path: Path, keys: KeyFolder) -> None:
    path = tmp_path / "small.edge"
    abandoned, growing = (tmp_path / f".other.edge.{i}.edge-draft" for i in range(2))
    for file in (abandoned, growing):
        file.write_text("x")
    past = abandoned.stat().st_mtime - ABANDONED_S - 1
    os.utime(abandoned, (past, past))
    small_bundle.write_bundle(path, keys)
    assert sorted(file.name for file in tmp_path.iterdir()) == [growing.name, path.name]


def test_a_full_disk_is_said_so(
    tmp_path: Path, keys: KeyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FitError, match="no room left on the disk"):
        small_bundle.write_bundle(tmp_path / "small.edge", keys)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file/small\.edge"):
        BundleWriter(tmp_path / "file" / "small.edge")


def test_opening_imports_no_tinygrad(path: Path, keys: KeyFolder) -> None:
    code = (
        "import sys; from pathlib import Path; from edgellm import bundle\n"
        "from edgellm.key_folder import KeyFolder\n"
        "bundle.open(sys.argv[1], KeyFolder(Path(sys.argv[2])))\n"
        "print(*sys.modules)"
    )
    command = [sys.executable, "-c", code, str(path), str(keys.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"tinygrad", "cryptography", "jinja2", "asyncio", "serial", "regex"}


def test_without_cryptography_only_its_own_bundles_are_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cryptography")
    builder, user = KeyFolder(tmp_path / "builder"), KeyFolder(tmp_path / "user")
    user.trust(builder.new("anna"))
    path = tmp_path / "model.edge"
    small_bundle.write_bundle(path, builder, "anna")
    monkeypatch.setattr(signing, "can_check", lambda: False)
    assert bundle.open(path, builder).voucher == signing.LOCAL
    with pytest.raises(TrustError, match=r"'anna'.* pip install 'edgellm\[signing\]'"):
        bundle.open(path, user)
    monkeypatch.setattr(key_folder, "can_check", lambda: False)
    with pytest.raises(UsageError, match="needs cryptography"):
        bundle.signers(path)
