"""Boards: their profiles, edgellm's and the user's, and which of them a machine is."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from edgellm import board_profile, bounded_file, folders, processor
from edgellm.board_profile import Board as Board
from edgellm.errors import UsageError

PROFILES = "edgellm_boards"
"""The package whose files the profiles are: data, of which nothing is run."""
GENERIC = "generic"
MAX_PROFILES = 256
MAX_CLUE = 256 * 1024
"""Bytes read of a file; the properties of Android are some ten thousand."""
FIRMWARE = "sys/class/dmi/id"
COMMAND_S = 5
ANDROID_FILES = ("system/build.prop", "system/bin/app_process64", "system/bin/getprop")


@dataclass(frozen=True)
class Detected:
    """Which board a machine is."""

    board: Board
    """The profile, with features and clusters as the machine's own processor has them."""
    reasons: tuple[str, ...]
    """What told it, a sentence each."""
    notices: tuple[str, ...]
    """What the user should know: that the board is unknown, or isn't as its profile says."""
    model: str = ""
    """What the machine calls itself."""
    memory_bytes: int | None = None


def names() -> list[str]:
    """The boards that have a profile, the user's own included, in alphabetical order."""
    return sorted(_sources())


def load(name: str) -> Board:
    """A board's profile, the user's own before edgellm's.

    Raises UsageError for an unknown board, FormatError for a profile that breaks the rules.
    """
    sources = _sources()
    if name not in sources:
        known = ", ".join(sorted(sources))
        raise UsageError(f"there is no profile of a board {name!r}; known are {known}")
    return _parsed(sources[name], name)


def user_folder() -> Path:
    """Where users' profiles are. Raises UsageError where there is no home."""
    return folders.config() / "boards"


def detect(root: Path = processor.ROOT) -> Detected:
    """Which board a machine is: this one, or that whose /proc and /sys are below another folder.

    There, what Android's `getprop` and macOS's `sysctl` would say is read from files of these names
    in the folder. The board's name never decides what its processor can do: that is what its kernel
    tells of it. Raises FormatError for a user's profile that breaks the rules.
    """
    profiles = {name: _parsed(path, name) for name, path in _sources().items()}
    clues = _Clues(root)
    found = clues.processor()
    board, reason = _recognised(profiles, clues, found)
    reasons, notices = [reason] if reason else [], []
    if not reason:
        board = profiles[GENERIC]
        about = clues.model() or found.title or "this machine"
        notices.append(
            f"no profile is for {about}: the generic one serves, until there is one in "
            "~/.config/edgellm/boards"
        )
    cpu = board.cpu
    if found.machine:
        reasons.append(_told(found))
        lacking = [flag for flag in cpu.features if flag not in found.features]
        if cpu.machine and cpu.machine != found.machine:
            notices.append(
                f"it takes itself for {board.title}, whose processor is {cpu.machine}, but its own "
                f"is {found.machine}"
            )
        elif lacking:
            notices.append(
                f"the processor lacks {', '.join(lacking)}, which {board.title} has: what is "
                "compiled for it makes do without"
            )
        features = tuple(sorted(found.features))
        cpu = replace(cpu, machine=found.machine, features=features, target="")
    else:
        notices.append("the processor's features aren't told: the profile's are taken for true")
    if found.clusters:
        cpu = replace(cpu, clusters=found.clusters)
    page_kib = clues.page_kib() or board.page_kib
    return Detected(
        replace(board, cpu=cpu, page_kib=page_kib),
        tuple(reasons),
        tuple(notices),
        clues.model(),
        clues.memory(),
    )


def _sources() -> dict[str, Path]:
    """The files of all profiles by the boards' names; the user's replace edgellm's."""
    found = {}
    for folder in _folders():
        paths = itertools.islice(sorted(folder.glob("*.toml")), MAX_PROFILES)
        found.update({path.name.removesuffix(".toml"): path for path in paths})
    return found


def _folders() -> Iterator[Path]:
    package = find_spec(PROFILES)
    if package is not None and package.origin is not None:
        yield Path(package.origin).parent
    with contextlib.suppress(UsageError):  # no home: there are no profiles of the user's
        yield user_folder()


def _parsed(path: Path, name: str) -> Board:
    return board_profile.parse(bounded_file.read(path, board_profile.MAX_FILE), name, path)


def _told(found: processor.Found) -> str:
    counts: dict[str, int] = {}
    for part in found.clusters:
        counts[part.core] = counts.get(part.core, 0) + len(part.cpus)
    cores = " and ".join(f"{count} x {core}" for core, count in counts.items() if core)
    return f"the kernel tells of {cores or 'a processor'} ({found.machine})"


def _recognised(
    profiles: dict[str, Board], clues: _Clues, found: processor.Found
) -> tuple[Board, str]:
    """The first profile that a clue is for, and why; clues that are surer come first."""
    boards = profiles.values()
    for text in clues.compatible():
        for board in boards:
            if text in board.match.compatible:
                return board, f"the device tree is compatible with {text!r}"
    for text in clues.firmware():
        for board in boards:
            if text in board.match.dmi:
                return board, f"the firmware calls the machine {text!r}"
    for board in boards:
        if clues.system() == board.match.system != "":
            return board, f"the system is {board.match.system}"
    for board in boards:
        if found.title and found.title.startswith(board.match.processor):
            return board, f"the processor calls itself {found.title!r}"
    return profiles[GENERIC], ""


class _Clues:
    """What a machine tells of itself."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def compatible(self) -> list[str]:
        """Strings of the device tree's root, the most particular first."""
        return [text for text in self._tree("compatible").split("\0") if text]

    def firmware(self) -> list[str]:
        """Names that a PC's firmware gives: of the product, then of the board."""
        texts = (self._read(f"{FIRMWARE}/{name}") for name in ("product_name", "board_name"))
        return [text for text in texts if text]

    def system(self) -> str:
        """ "android", "macos", or "linux" for whatever else."""
        paths = [self._root / name for name in ("getprop", *ANDROID_FILES)]
        if any(path.exists() and processor.within(path, self._root) for path in paths):
            return "android"
        return "macos" if self._sysctl() else "linux"

    def model(self) -> str:
        """What the machine calls itself; empty where it doesn't."""
        if named := self._tree("model"):
            return named
        vendor = self._read(f"{FIRMWARE}/sys_vendor")
        if firmware := self.firmware():
            return f"{vendor} {firmware[0]}".strip()
        if self.system() == "android":
            about = self._getprop()
            keys = ("ro.product.model", "ro.soc.model")
            return ", ".join(about[key] for key in keys if about.get(key))
        return self._sysctl().get("hw.model", "")

    def processor(self) -> processor.Found:
        values = self._sysctl()
        return processor.of_sysctl(values) if values else processor.find(self._root)

    def memory(self) -> int | None:
        """Bytes of memory that the system may use."""
        told = re.search(r"^MemTotal: +(\d{1,15}) kB", self._read("proc/meminfo"), re.M)
        if told:
            return int(told[1]) * 1024
        size = self._sysctl().get("hw.memsize", "")
        return int(size) if size.isdecimal() and len(size) < 20 else None

    def page_kib(self) -> int | None:
        """Of this machine's memory; another root doesn't tell."""
        return mmap.PAGESIZE >> 10 if self._root == processor.ROOT else None

    def _tree(self, name: str) -> str:
        for folder in ("proc/device-tree", "sys/firmware/devicetree/base"):
            if text := self._read(f"{folder}/{name}"):
                return text
        return ""

    def _read(self, name: str) -> str:
        return processor.read_text(self._root / name, self._root, MAX_CLUE)

    def _getprop(self) -> dict[str, str]:
        text = self._said("getprop", lambda: sys.platform in ("linux", "android"), ["getprop"])
        return dict(re.findall(r"^\[([\w.-]+)\]: \[(.*)\]$", text, re.M))

    def _sysctl(self) -> dict[str, str]:
        command = ["sysctl", "hw", "machdep.cpu"]
        text = self._said("sysctl", lambda: sys.platform == "darwin", command)
        lines = (line.partition(":") for line in text.splitlines())
        return {key.strip(): value.strip() for key, colon, value in lines if colon}

    def _said(self, file: str, here: Callable[[], bool], command: list[str]) -> str:
        """What a command of the system's says; of another root, the file that has it."""
        if self._root != processor.ROOT:
            return self._read(file)
        if not here():
            return ""
        import subprocess

        try:
            done = subprocess.run(command, capture_output=True, timeout=COMMAND_S)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout[:MAX_CLUE].decode("utf-8", "replace")
