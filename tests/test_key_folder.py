"""The folder of keys: what is made, trusted and removed there, and what is refused."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from edgellm import key_folder
from edgellm.errors import UsageError
from edgellm.key_folder import KeyFolder, PublicKey


@pytest.fixture
def keys(tmp_path: Path) -> KeyFolder:
    return KeyFolder(tmp_path / "keys")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_key_signs_and_is_trusted(keys: KeyFolder) -> None:
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    assert keys.trusted() == []
    key = keys.new("anna")
    assert keys.trusted() == keys.signing() == [key]
    public = ed25519.Ed25519PublicKey.from_public_bytes(key.data)
    public.verify(keys.sign("anna", b"message"), b"message")  # raises where it's wrong
    assert mode(keys.path) == 0o700
    assert mode(keys.path / "anna.key") == mode(keys.path / "anna.pub") == 0o600
    with pytest.raises(UsageError, match="a key 'anna' already"):
        keys.new("anna")


def test_a_key_travels_as_a_line_of_text(keys: KeyFolder) -> None:
    key = PublicKey("bob", bytes(range(32)))
    keys.trust(key_folder.parse(key.text + "\n", "the line"))
    keys.trust(key)  # once more changes nothing
    assert keys.trusted() == [key]
    assert keys.signing() == []
    with pytest.raises(UsageError, match="another key 'bob'"):
        keys.trust(PublicKey("bob", bytes(32)))
    keys.remove("bob")
    assert keys.trusted() == []
    with pytest.raises(UsageError, match="no key 'bob'; there are: none"):
        keys.remove("bob")


def test_a_key_that_was_removed_signs_no_more(keys: KeyFolder) -> None:
    pytest.importorskip("cryptography")
    keys.new("anna")
    keys.remove("anna")
    assert [path.name for path in keys.path.iterdir()] == []
    with pytest.raises(UsageError, match=r"anna\.key"):
        keys.sign("anna", b"")


@pytest.mark.parametrize(
    "text",
    ["", "ssh-ed25519 AAAA", "edgellm-ed25519", "edgellm-ed25519 AAAA", "edgellm-ed25519 !!!! me"],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"here: no public key"):
        key_folder.parse(text, "here")


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "a/b", "a b", "x" * 65])
def test_a_name_is_no_path(keys: KeyFolder, name: str) -> None:
    with pytest.raises(UsageError, match="a key's name"):
        keys.trust(PublicKey(name, bytes(32)))
    assert key_folder.NAME.fullmatch(key_folder.named(name, bytes(32)).name)


def test_this_machines_secret_is_made_once_and_kept_to_its_owner(keys: KeyFolder) -> None:
    assert keys.local_secret() is None
    secret = keys.local_secret(create=True)
    assert secret is not None
    assert len(secret) == 32
    assert keys.local_secret(create=True) == keys.local_secret() == secret
    file = keys.path / "local.secret"
    assert mode(file) == 0o600
    file.chmod(0o644)
    with pytest.raises(UsageError, match="others can read it"):
        keys.local_secret()
    file.chmod(0o600)
    file.write_text("x")
    with pytest.raises(UsageError, match="damaged"):
        keys.local_secret()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="XDG_CONFIG_HOME"):
        KeyFolder(tmp_path / "file" / "keys").local_secret(create=True)


def test_a_file_system_without_links_will_do(
    keys: KeyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("os.link", refused)
    secret = keys.local_secret(create=True)
    assert secret is not None
    assert keys.local_secret() == secret
    assert [path.name for path in keys.path.iterdir()] == ["local.secret"]


def test_a_folder_that_others_can_write_is_refused(keys: KeyFolder) -> None:
    keys.trust(PublicKey("bob", bytes(32)))
    keys.path.chmod(0o770)
    with pytest.raises(UsageError, match="chmod 700"):
        keys.trusted()


def test_the_name_of_this_machine_can_name_a_key(
    keys: KeyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for node in ("board", "", "-- Anna's Pi --", "x" * 100):
        monkeypatch.setattr("platform.node", lambda node=node: node)
        assert key_folder.NAME.fullmatch(keys.default_name())
