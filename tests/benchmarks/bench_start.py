"""Hot path: from the shell to the first line of output, which a person waits for each time."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pytest_benchmark.fixture import BenchmarkFixture


@pytest.mark.parametrize("verb", ["--help", "--version", "plugins"])
def test_command_line(benchmark: BenchmarkFixture, verb: str) -> None:
    benchmark.pedantic(
        lambda: subprocess.run(
            [sys.executable, "-m", "edgellm", verb], check=True, capture_output=True
        ),
        rounds=5,
    )
