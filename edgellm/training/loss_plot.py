"""A picture of how the loss fell: a PNG, drawn pixel by pixel."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgellm.training.record import History

WIDTH, HEIGHT = 900, 480
LEFT, RIGHT, TOP, BOTTOM = 84, 20, 20, 44
SCALE = 2
"""Pixels of a dot of a character."""

PAPER, GRID, INK = (255, 255, 255), (222, 226, 230), (60, 66, 72)
FAINT, LEARNT, HELD_OUT = (190, 208, 232), (33, 92, 176), (214, 92, 22)

# Five rows of three dots each, the highest bit left.
GLYPHS = {
    "0": (7, 5, 5, 5, 7), "1": (2, 6, 2, 2, 7), "2": (7, 1, 7, 4, 7), "3": (7, 1, 7, 1, 7),
    "4": (5, 5, 7, 1, 1), "5": (7, 4, 7, 1, 7), "6": (7, 4, 7, 5, 7), "7": (7, 1, 2, 2, 2),
    "8": (7, 5, 7, 5, 7), "9": (7, 5, 7, 1, 7), ".": (0, 0, 0, 0, 2), "-": (0, 0, 7, 0, 0),
    "a": (0, 7, 1, 7, 7), "c": (0, 7, 4, 4, 7), "d": (1, 7, 5, 5, 7), "e": (0, 7, 7, 4, 7),
    "h": (4, 7, 5, 5, 5), "i": (2, 0, 2, 2, 2), "k": (4, 5, 6, 6, 5), "l": (6, 2, 2, 2, 7),
    "n": (0, 6, 5, 5, 5), "o": (0, 7, 5, 5, 7), "p": (0, 7, 5, 7, 4), "r": (0, 7, 4, 4, 4),
    "s": (0, 7, 6, 3, 7), "t": (2, 7, 2, 2, 3), "u": (0, 5, 5, 5, 7), "g": (0, 7, 5, 7, 3),
    "v": (0, 5, 5, 5, 2), "w": (0, 5, 5, 7, 5), " ": (0, 0, 0, 0, 0),
}  # fmt: skip

Colour = tuple[int, int, int]


class Picture:
    """Axes with steps from left to right and losses from bottom to top."""

    def __init__(self, steps: int, low: float, high: float) -> None:
        self.pixels: NDArray[np.uint8] = np.full((HEIGHT, WIDTH, 3), PAPER, np.uint8)
        self.steps, self.low, self.high = max(steps, 1), low, high

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / self.steps

    def y(self, loss: float) -> float:
        share = (loss - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(max(share, 0.0), 1.0)

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, thick: int = 2) -> None:
        """Through points (step, loss)."""
        placed = [(self.x(step), self.y(loss)) for step, loss in points]
        for (x0, y0), (x1, y1) in zip(placed, placed[1:] or placed, strict=False):
            count = int(max(abs(x1 - x0), abs(y1 - y0))) + 1
            for at in np.linspace(0, 1, count + 1):
                column, row = round(x0 + (x1 - x0) * at), round(y0 + (y1 - y0) * at)
                self.pixels[row : row + thick, column : column + thick] = colour

    def text(self, text: str, right: int, middle: int, colour: Colour = INK) -> None:
        """With its right end and the middle of its height at a place."""
        left, top = right - len(text) * 4 * SCALE, middle - 5 * SCALE // 2
        for index, letter in enumerate(text):
            for row, bits in enumerate(GLYPHS.get(letter, GLYPHS[" "])):
                for dot in range(3):
                    if bits >> (2 - dot) & 1:
                        y, x = top + row * SCALE, left + (index * 4 + dot) * SCALE
                        self.pixels[y : y + SCALE, x : x + SCALE] = colour

    def axes(self) -> None:
        for loss in ticks(self.low, self.high):
            row = round(self.y(loss))
            self.pixels[row, LEFT : WIDTH - RIGHT] = GRID
            self.text(f"{loss:.4g}", LEFT - 8, row)
        for step in ticks(0, self.steps):
            column = round(self.x(step))
            self.pixels[TOP : HEIGHT - BOTTOM, column] = GRID
            label = f"{step:g}"
            self.text(label, column + len(label) * 2 * SCALE, HEIGHT - BOTTOM + 14)
        self.pixels[TOP : HEIGHT - BOTTOM, LEFT] = INK
        self.pixels[HEIGHT - BOTTOM, LEFT : WIDTH - RIGHT] = INK
        self.text("loss", LEFT - 8, TOP - 8)
        self.text("steps", WIDTH - RIGHT, HEIGHT - 10)

    def png(self) -> bytes:
        raw = b"".join(b"\0" + row.tobytes() for row in self.pixels)
        header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
        parts = (b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in parts)


def plot(history: History) -> bytes:
    """The losses of all steps, faint, their running mean, and the held-out losses, as PNG."""
    steps = [(step.step, step.loss) for step in history.steps]
    looks = [(look.step, look.loss) for look in history.looks]
    losses = [loss for _, loss in (*steps, *looks) if math.isfinite(loss)] or [0.0]
    low, high = min(losses), max(losses)
    margin = (high - low) * 0.05 or 0.5
    picture = Picture(
        max((step for step, _ in (*steps, *looks)), default=1), low - margin, high + margin
    )
    picture.axes()
    if steps:
        picture.line(steps, FAINT, thick=1)
        picture.line(smooth(steps), LEARNT)
    if looks:
        picture.line(looks, HELD_OUT)
    picture.text("learnt", WIDTH - RIGHT - 8, TOP + 14, LEARNT)
    picture.text("held out", WIDTH - RIGHT - 8, TOP + 30, HELD_OUT)
    return picture.png()


def smooth(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """An exponential mean over about a thirtieth of the points, unbiased at the beginning."""
    keep = max(1 - 30 / len(points), 0.0)
    total = weight = 0.0
    found: list[tuple[int, float]] = []
    for step, loss in points:
        total, weight = keep * total + loss, keep * weight + 1
        found.append((step, total / weight))
    return found


def ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers from low to high, at most so many."""
    raw = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next((unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw), unit)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
