"""The keys of this machine's user: those that sign bundles here, and those whose bundles are run.

The folder `keys` below `edgellm.folders.config()` holds NAME.pub for each key that is trusted,
NAME.key beside it for those that sign here, and `local.secret`, with which this machine marks what
it has built itself.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import importlib.util
import os
import platform
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from edgellm import bounded_file, folders
from edgellm.errors import UsageError

SCHEME = "edgellm-ed25519"
REMEDY = "install it: pip install 'edgellm[signing]'"
LARGEST_FILE = 4096
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 key that signatures are checked with."""

    name: str
    data: bytes
    """32 bytes."""

    @property
    def fingerprint(self) -> str:
        """What people compare: half of the SHA-256 of the key."""
        return fingerprint(self.data)

    @property
    def text(self) -> str:
        """One line, to be handed to others."""
        return f"{SCHEME} {base64.b64encode(self.data).decode()} {self.name}"


def fingerprint(key: bytes) -> str:
    """The first half of a key's SHA-256, in groups of four digits."""
    digest = hashlib.sha256(key).hexdigest()[:32]
    return "-".join(digest[i : i + 4] for i in range(0, 32, 4))


def parse(text: str, where: object) -> PublicKey:
    """The key in such a line. Raises UsageError, naming `where` it was found."""
    words = text.split()
    try:
        if len(words) not in (2, 3) or words[0] != SCHEME:
            raise ValueError
        data = base64.b64decode(words[1], validate=True)
        if len(data) != 32:
            raise ValueError
    except (ValueError, binascii.Error) as error:
        raise UsageError(f"{where}: no public key; one is like {SCHEME} AAAA… name") from error
    return named(words[2] if len(words) == 3 else "", data)


def named(name: str, data: bytes) -> PublicKey:
    """A key under the name that it comes with, if that can be used here."""
    return PublicKey(name if NAME.fullmatch(name) else fingerprint(data)[:9], data)


def can_check() -> bool:
    """Whether what makes and checks signatures is installed."""
    return importlib.util.find_spec("cryptography") is not None


class KeyFolder:
    """The keys in a folder, which needn't exist before a key is put there."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = folders.config() / "keys" if path is None else path

    def trusted(self) -> list[PublicKey]:
        """The keys whose bundles are run, by name. Raises UsageError for a file that holds none, or
        where others than its owner could put one there."""
        if not self.path.is_dir():
            return []
        if os.name == "posix" and self.path.stat().st_mode & 0o022:
            raise UsageError(f"{self.path}: others can write there; chmod 700 it")
        return [self._public(file) for file in sorted(self.path.glob("*.pub"))]

    def signing(self) -> list[PublicKey]:
        """Those of them that sign here."""
        return [key for key in self.trusted() if self._file(key.name, "key").is_file()]

    def trust(self, key: PublicKey) -> None:
        """Run bundles signed by this key from now on. Raises UsageError where the name is that of
        another key."""
        file = self._file(key.name, "pub")
        if file.is_file():
            if self._public(file).data == key.data:
                return
            raise UsageError(f"there is another key {key.name!r}; remove it, or give a new name")
        self._write(file, key.text + "\n")

    def remove(self, name: str) -> None:
        """Forget a key, its secret too. Raises UsageError where there is none of that name."""
        file = self._file(name, "pub")
        if not file.is_file():
            names = ", ".join(key.name for key in self.trusted()) or "none"
            raise UsageError(f"there is no key {name!r}; there are: {names}")
        file.unlink()
        self._file(name, "key").unlink(missing_ok=True)

    def new(self, name: str) -> PublicKey:
        """Make a key that signs bundles here. Raises UsageError where the name is taken, or
        `cryptography` isn't installed."""
        try:
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        except ImportError as error:
            raise UsageError(f"a signing key needs the package cryptography; {REMEDY}") from error
        if self._file(name, "pub").exists() or self._file(name, "key").exists():
            raise UsageError(f"there is a key {name!r} already; remove it, or give a new name")
        private = Ed25519PrivateKey.generate()
        key = PublicKey(name, private.public_key().public_bytes_raw())
        secret = base64.b64encode(private.private_bytes_raw()).decode()
        self._write(self._file(name, "key"), f"{SCHEME}-secret {secret}\n")
        self.trust(key)
        return key

    def default_name(self) -> str:
        """What a key of this machine is called: its host's name."""
        name = re.sub(r"[^A-Za-z0-9._-]", "-", platform.node()).lstrip("._-")[:64]
        return name or "edgellm"

    def sign(self, name: str, message: bytes) -> bytes:
        """A signature by one of the keys that sign here. Raises UsageError as `new`, and where the
        key's file is damaged or open to others."""
        try:
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        except ImportError as error:
            raise UsageError(f"signing needs the package cryptography; {REMEDY}") from error
        file = self._file(name, "key")
        words = self._secret(file).split()
        try:
            data = base64.b64decode(words[1], validate=True)
            private = Ed25519PrivateKey.from_private_bytes(data)
        except (IndexError, ValueError) as error:
            raise UsageError(f"{file}: no secret key; remove the key {name!r}") from error
        return private.sign(message)

    def local_secret(self, create: bool = False) -> bytes | None:
        """32 random bytes that never leave this machine; None where there are none yet."""
        file = self.path / "local.secret"
        if not file.is_file():
            if not create:
                return None
            self._write(file, secrets.token_hex(32) + "\n")
        text = self._secret(file).strip()
        if not re.fullmatch("[0-9a-f]{64}", text):
            raise UsageError(f"{file}: damaged; remove it, and what was built here is built anew")
        return bytes.fromhex(text)

    def _file(self, name: str, kind: str) -> Path:
        if not NAME.fullmatch(name):
            raise UsageError(f"a key's name is {name!r}; use letters, digits and . _ @ -")
        return self.path / f"{name}.{kind}"

    def _public(self, file: Path) -> PublicKey:
        text = bounded_file.read(file, LARGEST_FILE).decode("utf-8", "replace")
        return PublicKey(file.stem, parse(text, file).data)

    def _secret(self, file: Path) -> str:
        raw = bounded_file.read(file, LARGEST_FILE)
        if os.name == "posix" and file.stat().st_mode & 0o077:
            raise UsageError(f"{file}: others can read it; chmod 600 it, or remove it")
        return raw.decode("utf-8", "replace")

    def _write(self, file: Path, text: str) -> None:
        """Put a file there whole and for its owner alone, unless there is one already."""
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                with os.fdopen(descriptor, "w") as opened:
                    opened.write(text)
                _put(draft, file)
            finally:
                draft.unlink(missing_ok=True)
        except FileExistsError:
            return  # another process was first, and its file is as good
        except OSError as error:
            remedy = "set XDG_CONFIG_HOME to a folder that can be written"
            raise UsageError(f"{file}: {error.strerror}; {remedy}") from error


def _put(draft: Path, file: Path) -> None:
    """Give the draft its name. Raises FileExistsError where there is such a file."""
    try:
        os.link(draft, file)
    except FileExistsError:
        raise
    except OSError:  # a file system without links, or Android
        if file.exists():
            raise FileExistsError from None
        draft.replace(file)
