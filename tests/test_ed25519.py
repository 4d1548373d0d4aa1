"""Checking Ed25519 signatures, against RFC 8032's examples and the package cryptography."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm import ed25519

# RFC 8032, section 7.1: public key, message, signature.
EXAMPLES = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf"
        "9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f"
        "11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984"
        "dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]
BYTES = [tuple(bytes.fromhex(part) for part in example) for example in EXAMPLES]


@pytest.mark.parametrize(("public", "message", "signature"), BYTES)
def test_the_examples_of_the_rfc(public: bytes, message: bytes, signature: bytes) -> None:
    assert ed25519.verify(public, message, signature)
    assert not ed25519.verify(public, message + b"x", signature)


@given(st.integers(0, 64 * 8 - 1), st.sampled_from(BYTES))
def test_no_bit_of_a_signature_may_be_flipped(bit: int, example: tuple[bytes, ...]) -> None:
    public, message, signature = example
    altered = bytearray(signature)
    altered[bit // 8] ^= 1 << bit % 8
    assert not ed25519.verify(public, message, bytes(altered))


@given(st.integers(0, 32 * 8 - 1), st.sampled_from(BYTES))
def test_nor_one_of_the_key(bit: int, example: tuple[bytes, ...]) -> None:
    public, message, signature = example
    altered = bytearray(public)
    altered[bit // 8] ^= 1 << bit % 8
    assert not ed25519.verify(bytes(altered), message, signature)


def test_a_scalar_beyond_the_order_is_refused() -> None:
    """It would be a second signature of the same message (RFC 8032, section 8.4)."""
    public, message, signature = BYTES[1]
    scalar = int.from_bytes(signature[32:], "little") + ed25519.ORDER
    assert not ed25519.verify(public, message, signature[:32] + scalar.to_bytes(32, "little"))


@pytest.mark.parametrize("size", [0, 31, 33, 63, 65])
def test_other_lengths_are_refused(size: int) -> None:
    public, message, signature = BYTES[0]
    assert not ed25519.verify(public, message, (signature * 2)[:size])
    assert not ed25519.verify((public * 3)[:size], message, signature)


@pytest.mark.parametrize("y", [2, ed25519.P, ed25519.P + 1, (1 << 255) - 1, 1 | 1 << 255])
def test_a_key_that_is_no_point_is_refused(y: int) -> None:
    """Nor one that writes its point in another way than the one that is allowed."""
    assert not ed25519.verify(y.to_bytes(32, "little"), b"", bytes(64))


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
def test_what_cryptography_signs_is_right(secret: bytes, message: bytes) -> None:
    made = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    key = made.Ed25519PrivateKey.from_private_bytes(secret)
    public = key.public_key().public_bytes_raw()
    assert ed25519.verify(public, message, key.sign(message))
    assert not ed25519.verify(public, message + b"!", key.sign(message))
