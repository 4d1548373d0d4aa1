"""Histories of models that nobody serves any more: they grow old as others do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path

from edgellm.errors import UsageError
from edgellm.history.session_folder import CLOCK, DAY, SessionFolder, absence

FIRST_S = 3600.0
"""Seconds until the first look, so that services that start together aren't kept off theirs."""


async def expire(folder: Path, days: float) -> None:
    """Forget, once a day, what is too old in the folders beside `folder`, until cancelled."""
    await asyncio.sleep(FIRST_S)
    while True:
        await asyncio.to_thread(look_after, folder, days, time.time())
        await asyncio.sleep(DAY)


def look_after(folder: Path, days: float, wall: float) -> None:
    """In the folders beside `folder` that no service has taken, forget sessions without a question
    for so many days, by each folder's own clock: it goes on by a day at most from one look to the
    next, whatever the system's, `wall`, shows. A folder in which nothing is left is removed."""
    with contextlib.suppress(OSError):
        for path in sorted(folder.parent.iterdir()):
            if path.name != folder.name and path.is_dir() and not path.is_symlink():
                with contextlib.suppress(OSError, UsageError):
                    _forget(SessionFolder(path), days, wall)


def _forget(folder: SessionFolder, days: float, wall: float) -> None:
    found, age, latest = folder.take()
    try:
        age = max(age + absence(latest, wall), *(history.time for _, history in found), 0.0)
        folder.remove(one.name for _, one in found if one.time < age - days * DAY)
        if set(os.listdir(folder.path)) <= {CLOCK}:
            (folder.path / CLOCK).unlink(missing_ok=True)
            folder.path.rmdir()
        else:
            folder.write_clock(age, max(latest, wall))
    finally:
        folder.release()
