from __future__ import annotations

import sys

import pytest

from edgellm import terminal

HOSTILE = "a\x1b]0;title\x07b\x9bc\r\n\t\x7fzwölf"


def test_control_characters_are_not_printable() -> None:
    assert terminal.printable(HOSTILE) == "a]0;titlebc\n\tzwölf"


def test_a_terminal_gets_what_is_printable_and_others_all(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.write(HOSTILE + "\udc80")
    assert capfdbinary.readouterr().out == HOSTILE.encode() + b"?"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    terminal.write(HOSTILE)
    assert capfdbinary.readouterr().out == b"a]0;titlebc\n\tzw\xc3\xb6lf"
