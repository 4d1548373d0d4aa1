"""A board's profile: what a TOML file says of it, checked key by key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgellm.errors import FormatError
from edgellm.processor import Cluster, numbers

MAX_FILE = 8 * 1024
MAX_ITEMS = 64
MAX_TEXT = 500
MAX_CONTEXT = 1 << 20
MAX_NUMBER = 10_000
SYSTEMS = ("linux", "android", "macos")
THROTTLES = ("get_throttled", "cpufreq")
NAME = re.compile(r"[a-z0-9][a-z0-9._+-]{0,63}")
"""Of a board, a backend, a target or a feature."""


@dataclass(frozen=True)
class Match:
    """What tells that a machine is this board; one of them is enough."""

    compatible: tuple[str, ...] = ()
    """Strings of the device tree's root: "raspberrypi,5-model-b"."""
    dmi: tuple[str, ...] = ()
    """Whole product or board names of a PC's firmware: "Radxa X4"."""
    processor: tuple[str, ...] = ()
    """How names of processors begin: "Intel(R) N100", "Apple M"."""
    system: str = ""
    """"android": any machine with that system."""


@dataclass(frozen=True)
class CPU:
    """A board's processor, and what is compiled for it."""

    machine: str
    """As `platform.machine()` has it on Linux; empty where boards differ."""
    features: tuple[str, ...] = ()
    """In the words of /proc/cpuinfo: those that kernels use, or all that a machine has."""
    target: str = ""
    """What the CPU backend compiles for; empty: the best that it has for the features."""
    clusters: tuple[Cluster, ...] = ()


@dataclass(frozen=True)
class Board:
    """A kind of board, or one machine (`edgellm.board.detect`)."""

    name: str
    """As `--board` takes it: the profile's file without ".toml"."""
    title: str
    models: tuple[str, ...]
    """Boards that the profile is for, by the names that they are sold under."""
    system: str
    """One of SYSTEMS; empty where boards differ."""
    match: Match
    cpu: CPU
    memory_gib: tuple[float, ...] = ()
    """Sizes that it is sold with, ascending."""
    read_gb_s: float | None = None
    """How fast its processor reads memory, in 10^9 bytes a second; None where nobody has told."""
    read_source: str = ""
    """Who measured that, how, and when."""
    page_kib: int | None = None
    """Of memory, as the kernel that it comes with has them; None where that differs."""
    uarts: tuple[str, ...] = ()
    """Serial ports of its headers, as the system names them."""
    thermal_zones: tuple[str, ...] = ()
    """Types of the zones in /sys/class/thermal that tell the processor's heat."""
    throttle: tuple[str, ...] = ()
    """What tells that it is slowed down, of THROTTLES: the Raspberry Pi's bits (`get_throttled` of
    its firmware), or a clock below what was asked for."""
    backends: tuple[str, ...] = ("cpu",)
    """That may run models, the preferred one first."""
    threads: int | None = None
    """Where they aren't measured; None: one a core."""
    context: int | None = None
    """Tokens; None: as the model was trained, within the usual bounds."""
    quantisation: str = "Q4_0"
    """The type of weights that suits it."""
    notes: str = ""
    """What else is to be known of it."""


def parse(raw: bytes, name: str, file: object) -> Board:
    """The profile in a TOML file's bytes; `file` is named in errors. Raises FormatError."""
    import tomllib

    if not NAME.fullmatch(name):
        allowed = "small letters, digits and . _ + - are allowed, up to 64"
        raise FormatError(file, "the board's name", name, allowed)
    if len(raw) > MAX_FILE:
        raise FormatError(file, "size", len(raw), f"up to {MAX_FILE} bytes are allowed")
    try:
        content = tomllib.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        wrong = raw[error.start : error.start + 8]
        raise FormatError(file, f"text at byte {error.start}", wrong, "it must be UTF-8") from None
    except RecursionError:
        raise FormatError(file, "nesting", "too deep", "tables nest three deep") from None
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        raise FormatError(file, "text", str(error), "it must be TOML") from None
    top = _Table(content, "", file)
    memory, devices, run = top.table("memory"), top.table("devices"), top.table("run")
    board = Board(
        name=name,
        title=top.text("title"),
        models=top.texts("models"),
        system=top.choice("system", SYSTEMS, ""),
        match=_match(top.table("match")),
        cpu=_cpu(top.table("cpu")),
        memory_gib=memory.sizes("sizes_gib"),
        read_gb_s=memory.number("read_gb_s"),
        read_source=memory.text("read_source", ""),
        page_kib=memory.whole("page_kib", 1024),
        uarts=devices.texts("uarts"),
        thermal_zones=devices.texts("thermal_zones"),
        throttle=devices.choices("throttle", THROTTLES),
        backends=run.names("backends") or ("cpu",),
        threads=run.whole("threads", 256),
        context=run.whole("context", MAX_CONTEXT),
        quantisation=run.text("quantisation", "Q4_0"),
        notes=top.text("notes", ""),
    )
    if (board.read_gb_s is None) != (board.read_source == ""):
        lacking = "read_source" if board.read_gb_s else "read_gb_s"
        raise FormatError(file, f"memory.{lacking}", None, "a figure and its source come together")
    for table in (memory, devices, run, top):
        table.end()
    return board


def _match(table: _Table) -> Match:
    found = Match(
        compatible=table.texts("compatible"),
        dmi=table.texts("dmi"),
        processor=table.texts("processor"),
        system=table.choice("system", SYSTEMS, ""),
    )
    table.end()
    return found


def _cpu(table: _Table) -> CPU:
    clusters = []
    for cluster in table.tables("clusters"):
        listed = cluster.text("cpus")
        try:
            cpus = numbers(listed)
        except ValueError:
            raise cluster.refused("cpus", listed, 'give numbers such as "0-3" or "4,5"') from None
        core, mhz = cluster.text("core"), cluster.whole("mhz", 100_000)
        clusters.append(Cluster(core, cpus, mhz))
        cluster.end()
    found = CPU(
        machine=table.text("machine", ""),
        features=table.names("features"),
        target=table.text("target", ""),
        clusters=tuple(clusters),
    )
    table.end()
    return found


class _Table:
    """A table whose keys are taken out one by one; each method raises FormatError for a value that
    isn't as it says."""

    def __init__(self, content: Mapping[str, object], path: str, file: object) -> None:
        self._content, self._path, self._file = dict(content), path, file
        self._asked: list[str] = []

    def refused(self, key: str, value: object, allowed: str) -> FormatError:
        return FormatError(self._file, self._path + key, value, allowed)

    def _take(self, key: str) -> object:
        self._asked.append(key)
        return self._content.pop(key, None)

    def end(self) -> None:
        """Refuse what nobody has asked for."""
        for key in self._content:
            known = f"there are {', '.join(sorted(self._asked))}"
            raise FormatError(self._file, f"key in {self._path[:-1] or 'the file'}", key, known)

    def text(self, key: str, default: str | None = None) -> str:
        value = self._take(key)
        if value is None and default is not None:
            return default
        return self._text(key, value)

    def _text(self, key: str, value: object) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or not value.isprintable():
            raise self.refused(key, value, f"a text of up to {MAX_TEXT} characters is needed")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(self._text(key, value) for value in self._list(key))

    def names(self, key: str) -> tuple[str, ...]:
        found = self.texts(key)
        for name in found:
            if not NAME.fullmatch(name):
                raise self.refused(key, name, "small letters, digits and . _ + - are allowed")
        return found

    def choice(self, key: str, allowed: tuple[str, ...], default: str) -> str:
        value = self._take(key)
        if value is None:
            return default
        if value not in allowed:
            raise self.refused(key, value, f"there are {', '.join(allowed)}")
        return str(value)

    def choices(self, key: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
        found = self.texts(key)
        for value in found:
            if value not in allowed:
                raise self.refused(key, value, f"there are {', '.join(allowed)}")
        return found

    def whole(self, key: str, most: int) -> int | None:
        value = self._take(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise self.refused(key, value, f"a whole number from 1 to {most} is needed")
        return value

    def number(self, key: str) -> float | None:
        value = self._take(key)
        return None if value is None else self._number(key, value)

    def sizes(self, key: str) -> tuple[float, ...]:
        found = tuple(self._number(key, value) for value in self._list(key))
        if list(found) != sorted(set(found)):
            raise self.refused(key, list(found), "the sizes must ascend")
        return found

    def _number(self, key: str, value: object) -> float:
        if not (isinstance(value, int | float) and 0 < value <= MAX_NUMBER) or value is True:
            raise self.refused(key, value, f"a number above 0, up to {MAX_NUMBER}, is needed")
        return float(value)

    def _list(self, key: str) -> list[object]:
        value = self._take(key)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            raise self.refused(key, value, f"a list of up to {MAX_ITEMS} is needed")
        return value

    def table(self, key: str) -> _Table:
        value = self._take(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self.refused(key, value, "a table is needed")
        return _Table(value, f"{self._path}{key}.", self._file)

    def tables(self, key: str) -> list[_Table]:
        path = f"{self._path}{key}."
        found = []
        for value in self._list(key):
            if not isinstance(value, dict):
                raise self.refused(key, value, "a list of tables is needed")
            found.append(_Table(value, path, self._file))
        return found
