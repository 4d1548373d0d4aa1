"""Writes sessions' histories in processes that are killed at random moments: FOLDER KILLS.

Prints how many turns were acknowledged and how many files had a torn tail. Ends with an error if
an acknowledged turn isn't there afterwards, or a file can't be opened.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path

from edgellm.history import journal
from edgellm.history.records import Answered, Asked
from edgellm.history.session_folder import SessionFolder
from edgellm.history.session_registry import name_of
from edgellm.history.session_store import Limits, SessionStore

SESSIONS = [name_of(bytes([index])) for index in range(3)]
LONGEST_S = 0.005
READY = b"begins"


async def write(folder: Path, acknowledge: int, seed: int) -> None:
    """Ask and answer for ever; each number that is on disk is told."""
    chance = random.Random(seed)
    async with SessionStore(folder, Limits(session_bytes=3000)) as store:
        os.write(acknowledge, READY)
        while True:
            index = chance.randrange(len(SESSIONS))
            name = SESSIONS[index]
            history = store.load(name) or store.begin(name)
            number = history.number + 1
            text = f"{number} " * chance.randrange(80)
            asked = Asked(
                number, text, None, None, None, "1", "m", len(history.turns), 1, store.now
            )
            assert await store.save(name, asked)
            os.write(acknowledge, bytes([index, 0]) + number.to_bytes(4, "little"))
            answered = Answered(number, text, None, "stop", 1, 1, 0, 0.0, 0.0)
            assert await store.save(name, answered)
            os.write(acknowledge, bytes([index, 1]) + number.to_bytes(4, "little"))


def main(folder: Path, kills: int) -> None:
    chance = random.Random(1)
    folder.chmod(0o700)
    known = [(0, 0)] * len(SESSIONS)  # number, whether answered
    turns = torn = 0
    for kill in range(kills):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            asyncio.run(write(folder, writing, kill))
        os.close(writing)
        if kill % 5:  # else it may be killed before it has read its files
            os.read(reading, len(READY))
        time.sleep(chance.random() * LONGEST_S)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "it ended by itself"
        with open(reading, "rb") as told:
            while message := told.read(6):
                if message == READY:
                    continue
                number = int.from_bytes(message[2:], "little")
                known[message[0]] = (number, message[1])
                turns += message[1]
        for index, name in enumerate(SESSIONS):
            path = folder / f"{name}.journal"
            if not path.exists():
                assert known[index] == (0, 0)
                continue
            torn += journal.read(path).size < path.stat().st_size
            _, history = SessionFolder(folder).read(name)
            found = (history.number, int(history.open is None))
            assert found >= known[index], f"after kill {kill}: {known[index]} became {found}"
            for turn in history.turns[:-1]:
                assert turn.answered is not None
                assert turn.answered.text == turn.asked.text
        assert not list(folder.glob("*.damaged*"))
    print(turns, torn)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
