"""Checks Ed25519 signatures (RFC 8032, section 5.1.7) in plain Python.

So a board that opens a bundle needs no compiled library for it. Nothing here is secret, so nothing
needs to take constant time; signatures are made by `cryptography`.
"""

from __future__ import annotations

import hashlib

P = 2**255 - 19
"""The field's prime."""
ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of the base point."""
D = -121665 * pow(121666, -1, P) % P
"""The curve: -x² + y² = 1 + D x² y²."""
ROOT = pow(2, (P - 1) // 4, P)
"""A square root of -1."""

Point = tuple[int, int, int, int]
"""Extended coordinates X, Y, Z, T: x = X/Z, y = Y/Z, x y = T/Z (RFC 8032, section 5.1.4)."""

NEUTRAL: Point = (0, 1, 1, 0)


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) of `message` was made with the secret of `public` (32)."""
    key = _point(public)
    if key is None or len(signature) != 64:
        return False
    scalar = int.from_bytes(signature[32:], "little")
    if scalar >= ORDER:  # else a signature could be altered and stay valid
        return False
    digest = hashlib.sha512(signature[:32] + public + message).digest()
    challenge = int.from_bytes(digest, "little") % ORDER
    x, y, z, t = key
    negative = (-x % P, y, z, -t % P)
    # [scalar] base - [challenge] key, both products at once (Straus 1964).
    table = (NEUTRAL, BASE, negative, _add(BASE, negative))
    total = NEUTRAL
    for bit in range(max(scalar.bit_length(), challenge.bit_length()) - 1, -1, -1):
        total = _add(total, total)
        total = _add(total, table[(scalar >> bit & 1) | (challenge >> bit & 1) << 1])
    return _bytes(total) == signature[:32]


def _add(a: Point, b: Point) -> Point:
    """The sum; complete, so it doubles too."""
    p = (a[1] - a[0]) * (b[1] - b[0]) % P
    q = (a[1] + a[0]) * (b[1] + b[0]) % P
    r = 2 * a[3] * b[3] * D % P
    s = 2 * a[2] * b[2] % P
    e, f, g, h = q - p, s - r, s + r, q + p
    return e * f % P, g * h % P, f * g % P, e * h % P


def _x(y: int, odd: int) -> int | None:
    """The x that belongs to y, with the given lowest bit; None where no point has this y."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT % P
    if (x * x - square) % P or (x == 0 and odd):
        return None
    return P - x if x & 1 != odd else x


def _point(data: bytes) -> Point | None:
    """The point that 32 bytes encode, None where they encode none."""
    if len(data) != 32:
        return None
    number = int.from_bytes(data, "little")
    y, odd = number & (1 << 255) - 1, number >> 255
    x = _x(y, odd) if y < P else None
    return None if x is None else (x, y, 1, x * y % P)


def _bytes(point: Point) -> bytes:
    inverse = pow(point[2], -1, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _base() -> Point:
    y = 4 * pow(5, -1, P) % P
    x = _x(y, 0)
    assert x is not None
    return x, y, 1, x * y % P


BASE = _base()
