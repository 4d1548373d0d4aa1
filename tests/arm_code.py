"""Counts instructions in the machine code of 64-bit Arm, whose every instruction is 32 bits."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

# Bits that tell an instruction, and their values (Arm Architecture Reference Manual, C7.2).
INSTRUCTIONS = {
    "sdot": ((0xBFE0FC00, 0x0E809400), (0xBFC0F400, 0x0F80E000)),  # by vector, by element
    "udot": ((0xBFE0FC00, 0x2E809400), (0xBFC0F400, 0x2F80E000)),
    "smmla": ((0xFFE0FC00, 0x4E80A400),),
    "smlal": ((0xBFE0FC00, 0x0E208000),),  # of bytes
}
EXECUTABLE = 4


def count(elf: bytes, name: str) -> int:
    """How many of an instruction an object or library has in its executable sections."""
    words = np.concatenate([np.frombuffer(code, "<u4") for code in _code(elf)])
    return sum(int(np.sum(words & mask == value)) for mask, value in INSTRUCTIONS[name])


def _code(elf: bytes) -> Iterator[bytes]:
    """The contents of the executable sections of a 64-bit little-endian ELF file."""
    assert elf.startswith(b"\x7fELF\2\1")
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, sections = struct.unpack_from("<HH", elf, 0x3A)
    for i in range(sections):
        _, _, flags, _, offset, nbytes = struct.unpack_from("<IIQQQQ", elf, table + i * size)
        if flags & EXECUTABLE:
            yield elf[offset : offset + nbytes // 4 * 4]
