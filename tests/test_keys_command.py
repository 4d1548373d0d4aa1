"""edgellm keys."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_bundle

from edgellm import cli
from edgellm.key_folder import KeyFolder, PublicKey


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyFolder:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return KeyFolder()


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `edgellm keys` prints; its error where it fails."""
    status = cli.main(["keys", *arguments])
    said = capsys.readouterr()
    assert (status == 0) == (said.err == "")
    return said.out if status == 0 else said.err


def test_a_key_is_made_shown_trusted_and_removed(
    keys: KeyFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("cryptography")
    assert call(capsys) == ""
    assert call(capsys, "new", "anna").startswith("anna  ")
    (key,) = keys.signing()
    assert call(capsys) == f"anna  {key.fingerprint}, signs here\n"
    text = call(capsys, "show", "anna")
    assert text == call(capsys, "show") == key.text + "\n"

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another"))
    file = tmp_path / "anna.pub"
    file.write_text(text)
    assert key.fingerprint in call(capsys, "trust", str(file))
    assert call(capsys, "list") == f"anna  {key.fingerprint}\n"
    call(capsys, "trust", text.strip(), "--name", "annas-second")
    assert [one.name for one in KeyFolder().trusted()] == ["anna", "annas-second"]
    call(capsys, "remove", "anna")
    assert [one.name for one in KeyFolder().trusted()] == ["annas-second"]


def test_the_key_in_a_bundle_is_trusted(
    keys: KeyFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cryptography")
    builder = KeyFolder(tmp_path / "builder")
    key = builder.new("bob")
    path = tmp_path / "small.edge"
    small_bundle.write_bundle(path, builder)
    assert "only the machine that built it" in call(capsys, "trust", str(path))
    small_bundle.write_bundle(path, builder, "bob")
    call(capsys, "trust", str(path))
    assert keys.trusted() == [PublicKey("bob", key.data)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trust"], "trust what?"),
        (["remove"], "remove what?"),
        (["remove", "nobody"], "no key 'nobody'"),
        (["show", "nobody"], "no key 'nobody'"),
        (["show"], "no key signs here"),
        (["list", "anna"], "did you mean show"),
        (["trust", "nowhere.pub"], "nowhere.pub"),
        (["trust", "edgellm-ed25519 AAAA"], "no public key"),
        (["new", "a b"], "a key's name"),
        (["new", "x", "--name", "y"], "--name goes with trust"),
    ],
)
def test_mistakes_are_named(
    keys: KeyFolder, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    pytest.importorskip("cryptography")
    assert said in call(capsys, *arguments)
