"""The thread that waits for the disk."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from edgellm.history.disk_thread import DiskThread


def test_calls_are_made_one_after_the_other_in_one_thread() -> None:
    worker = DiskThread()
    order: list[int] = []
    calls = [worker.submit(order.append, number) for number in range(100)]
    threads = {worker.submit(threading.get_ident).result(10) for _ in range(3)}
    assert all(call.result(10) is None for call in calls)
    assert order == list(range(100))
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    worker.close(10)


def test_an_error_is_the_calls_own() -> None:
    worker = DiskThread()
    wrong, right = worker.submit(int, "x"), worker.submit(int, "1")
    with pytest.raises(ValueError, match="invalid literal"):
        wrong.result(10)
    assert right.result(10) == 1
    worker.close(10)


def test_what_waits_is_done_before_the_end_unless_it_was_cancelled() -> None:
    worker, gate = DiskThread(), threading.Event()
    worker.submit(gate.wait)
    cancelled, done = worker.submit(int, "1"), worker.submit(int, "2")
    assert cancelled.cancel()
    worker.close(0)
    assert not done.done()
    gate.set()
    assert done.result(10) == 2
    DiskThread().close(10)


def test_a_process_ends_though_a_call_never_does() -> None:
    program = """
import threading
from edgellm.history.disk_thread import DiskThread
DiskThread().submit(threading.Event().wait)
print("end")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"end\n")
