"""Frames of the link: how a run of bytes keeps its bounds and its soundness on a noisy line.

    00  COBS(body, CRC-32 of the body, little-endian)  00

COBS (Consistent Overhead Byte Stuffing, Cheshire and Baker 1999) writes any bytes without a zero
byte at the cost of one byte in 254, so a zero byte always is a bound and a reader is in step again
at the next one, whatever was lost. One zero byte may end a frame and begin the next; nothing
between two of them is no frame. The CRC is that of IEEE 802.3, as `zlib.crc32` and MicroPython's
`binascii.crc32` have it: reflected, initial value and final exclusive or 0xFFFFFFFF.
"""

from __future__ import annotations

import zlib

from cobs import cobs

CRC_BYTES = 4
OVERHEAD = CRC_BYTES + 3
"""Bytes on the line beyond the body of a frame of less than 250: CRC, COBS, both zero bytes."""


def encode(body: bytes) -> bytes:
    """A frame around `body`, with both of its zero bytes."""
    framed: bytes = cobs.encode(body + zlib.crc32(body).to_bytes(CRC_BYTES, "little"))
    return b"\0" + framed + b"\0"


class Decoder:
    """Finds the sound frames in what comes from a line; holds less than one frame of it."""

    def __init__(self, limit: int) -> None:
        """`limit` is the largest body in bytes; a longer frame is noise."""
        self.errors = 0
        """How many runs between zero bytes were no sound frame."""
        sound = limit + CRC_BYTES
        self._longest = sound + -(-sound // 254)
        self._held = bytearray()  # since the last zero byte; cut off after _longest + 1

    def receive(self, data: bytes) -> list[bytes]:
        """The bodies of the frames that `data`, cut anywhere, completes. Garbage is counted."""
        *ended, rest = data.split(b"\0")
        bodies: list[bytes] = []
        for piece in ended:
            if self._held:
                self._hold(piece)
                piece = bytes(self._held)
                self._held.clear()
            if piece:
                body = self._decode(piece)
                if body is None:
                    self.errors += 1
                else:
                    bodies.append(body)
        self._hold(rest)
        return bodies

    def _hold(self, piece: bytes) -> None:
        self._held += piece[: self._longest + 1 - len(self._held)]

    def _decode(self, piece: bytes) -> bytes | None:
        if len(piece) > self._longest:
            return None
        try:
            framed: bytes = cobs.decode(piece)
        except cobs.DecodeError:
            return None
        body, crc = framed[:-CRC_BYTES], framed[-CRC_BYTES:]
        sound = len(crc) == CRC_BYTES and zlib.crc32(body).to_bytes(CRC_BYTES, "little") == crc
        return body if sound else None
