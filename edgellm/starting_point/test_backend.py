"""The backend keeps its contract; what fails is told in a table."""

from __future__ import annotations

import subprocess
import sys


def test_it_keeps_the_contract() -> None:
    command = [sys.executable, "-m", "edgellm", "backend", "check", "starting_point", "--quick"]
    assert subprocess.run(command).returncode == 0
