"""Signatures of bundles: who vouches for the native code in them, and whether that is trusted."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgellm.errors import FormatError, TrustError, UsageError
from edgellm.key_folder import REMEDY, KeyFolder, PublicKey, can_check, named

CONTEXT = b"edgellm bundle\0"
"""Before what is signed, so that a signature means nothing elsewhere."""

LOCAL = "local"
"""The voucher of a bundle that this machine has built."""


@dataclass(frozen=True)
class Signature:
    """One signature of a bundle."""

    scheme: Literal["ed25519", "local"]
    """local: HMAC-SHA-256 with a secret of the machine that built the bundle."""
    key: bytes
    """The public key; of a local secret a hash."""
    value: bytes
    name: str
    """What the signer calls the key."""


def sign(header: bytes, keys: KeyFolder, signer: str | None = None) -> list[Signature]:
    """This machine's own mark, and a signature by the key `signer` if one is named."""
    secret = keys.local_secret(create=True)
    if secret is None:
        raise UsageError(f"{keys.path}: the secret of this machine has just been removed")
    found = [Signature("local", _identity(secret), _mark(secret, header), LOCAL)]
    if signer is not None:
        by_name = {key.name: key for key in keys.signing()}
        if signer not in by_name:
            names = ", ".join(by_name) or "none"
            raise UsageError(f"no key {signer!r} signs here; there are: {names}")
        value = keys.sign(signer, _message(header, signer))
        found.append(Signature("ed25519", by_name[signer].data, value, signer))
    return found


def signers(header: bytes, signatures: Sequence[Signature], file: object) -> list[PublicKey]:
    """The public keys that signed, whether trusted or not; none where `cryptography` isn't
    installed. Raises FormatError for a signature that is wrong."""
    found = [one for one in signatures if one.scheme == "ed25519"]
    if not found or not can_check():
        return []
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    for one in found:
        try:
            public = Ed25519PublicKey.from_public_bytes(one.key)
            public.verify(one.value, _message(header, one.name))
        except (InvalidSignature, ValueError) as error:
            raise _altered(file, repr(one.name)) from error
    return [named(one.name, one.key) for one in found]


def own(header: bytes, signatures: Sequence[Signature], keys: KeyFolder, file: object) -> str:
    """LOCAL if this machine has made the bundle itself, else "". Raises FormatError where its own
    mark is wrong."""
    marks = [one for one in signatures if one.scheme == LOCAL]
    secret = keys.local_secret() if marks else None
    for one in marks:
        if secret is not None and one.key == _identity(secret):
            if not hmac.compare_digest(one.value, _mark(secret, header)):
                raise _altered(file, "this machine's")
            return LOCAL
    return ""


def vouch(
    signatures: Sequence[Signature], signers: Sequence[PublicKey], keys: KeyFolder, file: object
) -> str:
    """The name of the trusted key that vouches for a bundle; `signers` are those whose signatures
    are right. Raises TrustError where nobody is trusted."""
    trusted = {key.data: key.name for key in keys.trusted()} if signers else {}
    for key in signers:
        if key.data in trusted:
            return trusted[key.data]
    raise TrustError(_untrusted(signers, signatures, file))


def _untrusted(found: Sequence[PublicKey], signatures: Sequence[Signature], file: object) -> str:
    unchecked = [one for one in signatures if one.scheme == "ed25519" and not found]
    if unchecked:
        return (
            f"{file}: signed by a key called {unchecked[0].name!r}, and checking that needs the "
            f"package cryptography; {REMEDY}"
        )
    if found:
        who = " and ".join(f"{key.name} ({key.fingerprint})" for key in found)
        return (
            f"{file}: signed by {who}, which isn't trusted here, and it holds native code; if the "
            f"fingerprint is the one that its builder told you: edgellm keys trust {file}"
        )
    if signatures:
        return (
            f"{file}: built on another machine and signed for that one alone; build it here, or "
            "there with a key of its own (edgellm keys new)"
        )
    return f"{file}: nobody has signed it, and it holds native code; build it here"


def _altered(file: object, whose: str) -> FormatError:
    return FormatError(file, "signature", whose, "the file was altered after it was signed")


def _message(header: bytes, name: str) -> bytes:
    return CONTEXT + header + name.encode(errors="surrogatepass")


def _identity(secret: bytes) -> bytes:
    return hashlib.sha256(CONTEXT + b"identity" + secret).digest()[:16]


def _mark(secret: bytes, header: bytes) -> bytes:
    return hmac.digest(secret, _message(header, LOCAL), "sha256")
