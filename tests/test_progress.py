"""edgellm/progress.py: drawn on a terminal, silent elsewhere, wiped at the end."""

from __future__ import annotations

import io

import pytest

from edgellm import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    monkeypatch.setenv("COLUMNS", "60")


def test_silent_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with progress.bar(stream) as bar:
        assert bar is None
    assert stream.getvalue() == ""


def test_drawn_in_place_and_wiped() -> None:
    stream = Terminal()
    with progress.bar(stream) as bar:
        assert bar is not None
        bar("loading", 0, 4)
        bar("loading", 4, 4)
    empty, half, full, blank, end = stream.getvalue().split("\r")
    assert empty == end == ""
    assert half == f"loading [{'-' * 24}]   0%"
    assert full == f"loading [{'#' * 24}] 100%"
    assert blank == " " * len(full)


def test_a_shorter_line_covers_the_longer_one() -> None:
    stream = Terminal()
    with progress.bar(stream) as bar:
        assert bar is not None
        bar("compiling", 10, 100)
        bar("run", 1, 2)
    _, long, short, *_ = stream.getvalue().split("\r")
    assert len(short) == len(long)


@pytest.mark.parametrize(
    ("done", "total", "shown"),
    [(0, 0, "  0%"), (5, 0, "  0%"), (7, 3, "100%"), (1, 10**12, "  0%")],
)
def test_odd_numbers_do_no_harm(done: int, total: int, shown: str) -> None:
    stream = Terminal()
    with progress.bar(stream) as bar:
        assert bar is not None
        bar("loading", done, total)
    assert shown in stream.getvalue()


def test_never_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    stream = Terminal()
    with progress.bar(stream) as bar:
        assert bar is not None
        bar("compiling", 1, 2)
    assert max(len(line) for line in stream.getvalue().split("\r")) < 20


def test_draws_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 60.0)
    stream = Terminal()
    with progress.bar(stream) as bar:
        assert bar is not None
        for done in range(1000):
            bar("loading", done, 1000)
        bar("loading", 1000, 1000)
    assert stream.getvalue().count("%") == 2


def test_wiped_when_loading_fails() -> None:
    stream = Terminal()

    def load() -> None:
        with progress.bar(stream) as bar:
            assert bar is not None
            bar("loading", 1, 2)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        load()
    assert stream.getvalue().endswith(" \r")
