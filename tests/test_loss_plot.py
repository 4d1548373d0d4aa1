"""The picture of a loss: a sound PNG, whatever the losses."""

from __future__ import annotations

import math
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.training.loss_plot import HEIGHT, HELD_OUT, LEARNT, WIDTH, plot, smooth, ticks
from edgellm.training.record import History, Look, Step


def pixels(png: bytes) -> np.ndarray:
    """The picture, its chunks checked."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, found = 8, {}
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        body = png[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack(">I", png[at + 8 + length : at + 12 + length])
        assert zlib.crc32(kind + body) == checksum
        found[kind] = body
        at += 12 + length
    assert list(found) == [b"IHDR", b"IDAT", b"IEND"]
    assert struct.unpack(">IIBB", found[b"IHDR"][:10]) == (WIDTH, HEIGHT, 8, 2)
    raw = np.frombuffer(zlib.decompress(found[b"IDAT"]), np.uint8).reshape(HEIGHT, 1 + 3 * WIDTH)
    assert not raw[:, 0].any()
    return raw[:, 1:].reshape(HEIGHT, WIDTH, 3)


def history(losses: list[float], looks: list[float]) -> History:
    steps = [Step(n, loss, 1e-3, 100, 0.1) for n, loss in enumerate(losses, 1)]
    return History(steps, [Look(10 * n, loss) for n, loss in enumerate(looks)])


@given(
    st.lists(st.floats(-10, 1e6), max_size=60), st.lists(st.floats(0, 100), max_size=5)
)  # fmt: skip
def test_any_losses_can_be_drawn(losses: list[float], looks: list[float]) -> None:
    pixels(plot(history(losses, looks)))


def test_both_lines_fall_from_left_to_right() -> None:
    picture = pixels(plot(history([5 - n / 20 for n in range(80)], [5.0, 4.0, 3.0, 2.0])))
    for colour in (LEARNT, HELD_OUT):
        rows, columns = np.nonzero((picture[60:] == colour).all(-1))
        assert np.corrcoef(rows, columns)[0, 1] > 0.9  # downwards


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.0123, 0.0124), (-5, 1e6), (3, 3)])
def test_ticks_are_round_and_within(low: float, high: float) -> None:
    found = ticks(low, high)
    assert len(found) <= 8
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)


def test_a_running_mean_begins_unbiased() -> None:
    assert smooth([(n, 2.0) for n in range(100)])[-1] == (99, pytest.approx(2.0))
    assert math.isclose(smooth([(1, 8.0), (2, 4.0)])[0][1], 8.0)
