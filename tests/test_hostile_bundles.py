"""Mutated bundles: what was changed is refused, what was signed so is read or refused.

`python tests/hostile_bundles.py FOLDER 20000 1` tries ten times as many.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COUNT = 2_000
CHILD = Path(__file__).with_name("hostile_bundles.py")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_no_mutated_bundle_is_believed_or_does_harm(tmp_path: Path) -> None:
    command = [sys.executable, str(CHILD), str(tmp_path), str(COUNT), "1"]
    # A thread's own arena would take 64 MiB of addresses, all that an input is allowed.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    failures = "\n\n".join(
        f"input {failure['input']} ({failure['kind']}): {failure['outcome']}\n{failure['text']}"
        for failure in report["failures"]
    )
    assert not failures, failures
    outcomes = report["outcomes"]
    assert sum(sum(kind.values()) for kind in outcomes.values()) == COUNT
    assert outcomes["changed"] == {"refused": pytest.approx(COUNT / 2, rel=0.1)}
    for kind in ("signed manifest", "signed vocabulary"):
        assert outcomes[kind]["refused"] > 50, kind
        assert outcomes[kind]["read"] > 5, kind
