from __future__ import annotations

from pathlib import Path

import pytest

from edgellm.errors import UsageError
from edgellm.wire import secret

GOOD = "0123456789abcdef"


def kept(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_file(tmp_path: Path) -> None:
    assert secret.read(kept(tmp_path / "token", f"{GOOD}\n")) == GOOD.encode()
    assert secret.read(kept(tmp_path / "token", "x" * 128)) == b"x" * 128


@pytest.mark.parametrize(
    "text",
    ["", "short", "x" * 129, "x" * 100_000, f"{GOOD}\n{GOOD}", f"{GOOD}ö", f"{GOOD}\t{GOOD}"],
)
def test_what_is_no_secret(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"16 to 128 printable ASCII .* make one with"):
        secret.read(kept(tmp_path / "token", text))
    monkeypatch.setenv(secret.VARIABLE, text)
    with pytest.raises(UsageError, match="EDGELLM_TOKEN"):
        secret.from_environment()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o620])
def test_a_file_that_others_may_use(tmp_path: Path, mode: int) -> None:
    path = kept(tmp_path / "token", GOOD, mode)
    with pytest.raises(UsageError, match=f"chmod 600 {path}"):
        secret.read(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file; make one with"):
        secret.read(tmp_path / "token")
    tmp_path.chmod(0o700)
    with pytest.raises(UsageError, match="directory"):
        secret.read(tmp_path)


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(secret.VARIABLE, raising=False)
    assert secret.from_environment() is None
    monkeypatch.setenv(secret.VARIABLE, GOOD)
    assert secret.from_environment() == GOOD.encode()
