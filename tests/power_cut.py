"""A disk that remembers what was synced, and what else may be left of it when the power fails.

`Disk` stands in for the module `os` in modules that write below one folder. The files are real, so
that the same process, or the next one, reads what was written. `left_after` makes up what a power
cut at some moment may have left: what was synced, and of the rest any sectors and any names, in any
order, as if each had or hadn't reached the disk before the end.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECTOR = 512


class Nth:
    """An error of the Nth call, and if it's `lasting` of all after it; for `Disk.fails`."""

    def __init__(self, number: int, nth: int, lasting: bool = False) -> None:
        self.number, self.nth, self.lasting = number, nth, lasting
        self.calls = 0

    def __call__(self, call: str) -> OSError | None:
        self.calls += 1
        fails = self.calls == self.nth or (self.lasting and self.calls > self.nth)
        return OSError(self.number, os.strerror(self.number)) if fails else None


class File:
    """An inode: what was done to its content, and when."""

    def __init__(self, durable: bytes = b"") -> None:
        self.durable = durable
        self.events: list[tuple[int, str, int, bytes]] = []
        """When, "write" or "truncate" or "sync", where, what."""

    def versions(self, moment: int) -> list[bytes]:
        """What was synced at that moment, and each content since."""
        versions = [self.durable]
        for when, kind, place, data in self.events:
            if when >= moment:
                break
            now = versions[-1]
            if kind == "sync":
                versions = [now]
            elif kind == "truncate":
                versions.append(now[:place].ljust(place, b"\0"))
            else:
                end = place + len(data)
                versions.append(now[:place].ljust(place, b"\0") + data + now[end:])
        return versions

    def left_after(self, moment: int, chance: random.Random) -> bytes:
        versions = self.versions(moment)
        keep = chance.choice(["none", "all", "some"])
        if keep != "some":
            return versions[0 if keep == "none" else -1]
        size = len(chance.choice(versions))
        blank = chance.choice([bytes(SECTOR), chance.randbytes(SECTOR)])
        sectors = []
        for place in range(0, size, SECTOR):
            # Where a file has grown, but nothing has arrived, is what the disk held before.
            found = chance.choice(versions)[place : place + SECTOR] or blank
            sectors.append(found.ljust(SECTOR, b"\0"))
        return b"".join(sectors)[:size]


class Disk:
    """Passes calls on to `os`, and writes down those that change what is below `root`."""

    def __init__(self, root: Path) -> None:
        """What is below `root` counts as synced."""
        self.root = root
        self.files = {path.name: File(path.read_bytes()) for path in root.iterdir()}
        self.names: list[tuple[int, str, str, File | None]] = [
            (-1, "name", name, file) for name, file in self.files.items()
        ]
        self.names.append((-1, "sync", "", None))
        """When, "name" or "sync", the name, what has it then."""
        self.moment = 0
        """Calls so far that changed something."""
        self.fails: Callable[[str], OSError | None] = lambda call: None
        self._opened: dict[int, tuple[File | None, int]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def left_after(self, moment: int, chance: random.Random) -> dict[str, bytes]:
        """Files that a power cut at a moment may leave."""
        durable: dict[str, File | None] = {}
        since: dict[str, list[File | None]] = {}
        for when, kind, name, file in self.names:
            if when >= moment:
                break
            if kind == "sync":
                durable |= {name: files[-1] for name, files in since.items()}
                since.clear()
            else:
                since.setdefault(name, [durable.get(name)]).append(file)
        keep = chance.choice(["none", "all", "some"])
        for name, files in since.items():
            durable[name] = chance.choice({"none": files[:1], "all": files[-1:]}.get(keep, files))
        return {name: file.left_after(moment, chance) for name, file in durable.items() if file}

    # What stands in for `os`

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        self._call("open")
        descriptor = os.open(path, flags, mode)
        name = Path(path).name
        if path == self.root:
            self._opened[descriptor] = None, 0
        elif Path(path).parent == self.root:
            if name not in self.files:
                self._name(name, File())
            file = self.files[name]
            self._opened[descriptor] = file, 0
            if flags & os.O_TRUNC:
                self._event(file, "truncate", 0, b"")
        return descriptor

    def close(self, descriptor: int) -> None:
        self._opened.pop(descriptor, None)
        os.close(descriptor)
        self._call("close")

    def lseek(self, descriptor: int, place: int, how: int) -> int:
        self._call("lseek")
        file, _ = self._opened[descriptor]
        self._opened[descriptor] = file, place
        return os.lseek(descriptor, place, how)

    def write(self, descriptor: int, data: bytes) -> int:
        self._call("write")
        file, place = self._opened[descriptor]
        assert file is not None
        self._event(file, "write", place, bytes(data))
        self._opened[descriptor] = file, place + len(data)
        return os.write(descriptor, data)

    def ftruncate(self, descriptor: int, size: int) -> None:
        self._call("ftruncate")
        file, _ = self._opened[descriptor]
        assert file is not None
        self._event(file, "truncate", size, b"")
        os.ftruncate(descriptor, size)

    def fsync(self, descriptor: int) -> None:
        """Without the real one: the real power stays on."""
        self._call("fsync")
        file, _ = self._opened[descriptor]
        if file is None:
            self.names.append((self.moment, "sync", "", None))
            self.moment += 1
        else:
            self._event(file, "sync", 0, b"")

    def replace(self, source: Path, target: Path) -> None:
        self._call("replace")
        os.replace(source, target)
        file = self.files[source.name]
        self._name(target.name, file)
        self._name(source.name, None)

    rename = replace

    def link(self, source: Path, target: Path) -> None:
        self._call("link")
        os.link(source, target)
        self._name(target.name, self.files[source.name])

    def unlink(self, path: Path) -> None:
        self._call("unlink")
        os.unlink(path)
        self._name(Path(path).name, None)

    def listdir(self, path: Path) -> list[str]:
        self._call("listdir")
        return os.listdir(path)

    def mkdir(self, path: Path, mode: int) -> None:
        self._call("mkdir")
        os.mkdir(path, mode)

    def read(self, descriptor: int, size: int) -> bytes:
        self._call("read")
        return os.read(descriptor, size)

    def fstat(self, descriptor: int) -> os.stat_result:
        self._call("fstat")
        return os.fstat(descriptor)

    def _call(self, name: str) -> None:
        if error := self.fails(name):
            raise error

    def _event(self, file: File, kind: str, place: int, data: bytes) -> None:
        file.events.append((self.moment, kind, place, data))
        self.moment += 1

    def _name(self, name: str, file: File | None) -> None:
        self.names.append((self.moment, "name", name, file))
        self.moment += 1
        if file is None:
            self.files.pop(name, None)
        else:
            self.files[name] = file
