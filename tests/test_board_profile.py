"""edgellm/board_profile.py: profiles, checked key by key."""

from __future__ import annotations

import contextlib
import dataclasses
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm import board, board_profile
from edgellm.board_profile import Board, parse
from edgellm.errors import FormatError
from edgellm.processor import Cluster

WHOLE = """
title = "Widget"
models = ["Widget 1", "Widget 2"]
system = "linux"
notes = "It blinks."

[match]
compatible = ["acme,widget"]
dmi = ["Widget"]
processor = ["Acme(R)"]
system = "android"

[cpu]
machine = "aarch64"
target = "cortex-a53"
features = ["fp", "asimd"]
clusters = [{ core = "Cortex-A53", cpus = "0-1,4", mhz = 1400 }]

[memory]
sizes_gib = [0.5, 1]
read_gb_s = 2.5
read_source = "measured by us"
page_kib = 16

[devices]
uarts = ["/dev/ttyS0"]
thermal_zones = ["cpu-thermal"]
throttle = ["cpufreq", "get_throttled"]

[run]
backends = ["opencl", "cpu"]
threads = 2
context = 1024
quantisation = "Q8_0"
"""


def test_every_key_of_a_profile() -> None:
    found = parse(WHOLE.encode(), "widget", "widget.toml")
    assert found == Board(
        name="widget",
        title="Widget",
        models=("Widget 1", "Widget 2"),
        system="linux",
        match=board_profile.Match(("acme,widget",), ("Widget",), ("Acme(R)",), "android"),
        cpu=board_profile.CPU(
            "aarch64", ("fp", "asimd"), "cortex-a53", (Cluster("Cortex-A53", (0, 1, 4), 1400),)
        ),
        memory_gib=(0.5, 1),
        read_gb_s=2.5,
        read_source="measured by us",
        page_kib=16,
        uarts=("/dev/ttyS0",),
        thermal_zones=("cpu-thermal",),
        throttle=("cpufreq", "get_throttled"),
        backends=("opencl", "cpu"),
        threads=2,
        context=1024,
        quantisation="Q8_0",
        notes="It blinks.",
    )
    for field in dataclasses.fields(Board):  # so the profile above leaves nothing at its default
        if field.default is not dataclasses.MISSING:
            assert getattr(found, field.name) != field.default


def test_a_title_is_enough() -> None:
    found = parse(b'title = "Widget"', "widget", "widget.toml")
    assert (found.backends, found.page_kib, found.threads) == (("cpu",), None, None)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('title = "Widget"', "", "title is None; a text of up to 500"),
        ('title = "Widget"', 'title = ""', "title is ''; a text"),
        ('title = "Widget"', 'title = "a\\u001b[2J"', "title is .*; a text"),
        ('title = "Widget"', 'name = "Widget"', "title is None"),
        (
            'title = "Widget"',
            'title = "Widget"\ncolour = 1',
            "key in the file is 'colour'; there are cpu, devices, match,",
        ),
        ('"linux"', '"plan9"', "system is 'plan9'; there are linux, android, macos"),
        ('"android"', '"plan9"', "match.system is 'plan9'; there are linux"),
        ('["acme,widget"]', '"acme,widget"', "match.compatible is 'acme,widget'; a list"),
        ('["acme,widget"]', "[1]", "match.compatible is 1; a text"),
        ("dmi =", "smbios =", "key in match is 'smbios'; there are compatible, dmi"),
        ('"fp", "asimd"', '"FP"', "cpu.features is 'FP'; small letters"),
        ("0-1,4", "4-0", "cpu.clusters.cpus is '4-0'; give numbers such as"),
        ("mhz = 1400", "mhz = 0", "cpu.clusters.mhz is 0; a whole number from 1 to 100000"),
        ("mhz = 1400", "ghz = 1.4", "key in cpu.clusters is 'ghz'; there are core, cpus, mhz"),
        ("[{ core", "[1, { core", "cpu.clusters is 1; a list of tables"),
        ("[0.5, 1]", "[1, 0.5]", r"memory.sizes_gib is \[1.0, 0.5\]; the sizes must ascend"),
        ("[0.5, 1]", "[nan]", "memory.sizes_gib is nan; a number above 0"),
        ("2.5", "true", "memory.read_gb_s is True; a number above 0"),
        ("2.5", "inf", "memory.read_gb_s is inf; a number above 0"),
        ('read_source = "measured by us"', "", "memory.read_source is None; a figure and its so"),
        ("read_gb_s = 2.5", "", "memory.read_gb_s is None; a figure and its source"),
        ("page_kib = 16", "page_kib = 16.0", "memory.page_kib is 16.0; a whole number"),
        ('["cpufreq"', '["smoke"', "devices.throttle is 'smoke'; there are get_throttled, cpufr"),
        ('["opencl"', '["../x"', "run.backends is '../x'; small letters"),
        ("threads = 2", "threads = 0", "run.threads is 0; a whole number from 1 to 256"),
        ("context = 1024", "context = true", "run.context is True; a whole number"),
        ("[run]", "[walk]", "key in the file is 'walk'"),
        ("[run]\n", "[[run]]\n", "run is .*; a table is needed"),
        ("threads = 2", "threads = ", "text is 'Invalid value .at line .*'; it must be TOML"),
        ("threads = 2", "threads = " + "9" * 5000, "text is 'Exceeds .*'; it must be TOML"),
        ('"It blinks."', '"' + "x" * 501 + '"', "notes is 'x+...x+'; a text of up to 500"),
        ('["/dev/ttyS0"]', '["a"' + ',"a"' * 64 + "]", "devices.uarts is .*; a list of up to 64"),
    ],
)
def test_each_mistake_is_told_with_what_is_allowed(old: str, new: str, said: str) -> None:
    assert old in WHOLE
    with pytest.raises(FormatError, match=f"^widget.toml: {said}"):
        parse(WHOLE.replace(old, new, 1).encode(), "widget", "widget.toml")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"#" * (board_profile.MAX_FILE + 1), "size is 8193; up to 8192 bytes"),
        (b"title = '\xff'", "text at byte 9 is .*; it must be UTF-8"),
        (b"a = " + b"[" * 8_000, "nesting is 'too deep'"),
        (b"a" + b".a" * 4_000 + b" = 1", "title is None"),
    ],
)
def test_hostile_files(raw: bytes, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        parse(raw, "widget", "widget.toml")


@pytest.mark.parametrize("name", ["", "A", "../etc/passwd", "a/b", ".hidden", "a" * 65])
def test_names_of_boards(name: str) -> None:
    with pytest.raises(FormatError, match=r"the board's name is .*; small letters"):
        parse(WHOLE.encode(), name, "widget.toml")


leaves = st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.binary())


@given(
    st.sampled_from(["title", "match", "cpu", "memory", "devices", "run"]),
    st.recursive(leaves, lambda below: st.lists(below) | st.dictionaries(st.text(), below)),
)
def test_no_value_is_a_surprise(key: str, value: object) -> None:
    content: dict[str, object] = {**tomllib.loads(WHOLE), key: value}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tomllib, "loads", lambda text: content)
        with contextlib.suppress(FormatError):
            parse(b"", "widget", "widget.toml")


def test_edgellms_own_are_sound() -> None:
    seen: set[str] = set()
    for name in board.names():
        found = board.load(name)
        assert found.title
        assert not set(found.match.compatible) & seen
        seen |= set(found.match.compatible)
        assert found.models
        clusters = [cpu for part in found.cpu.clusters for cpu in part.cpus]
        assert clusters == list(range(len(clusters)))
        assert found.threads is None or found.threads <= len(clusters)
