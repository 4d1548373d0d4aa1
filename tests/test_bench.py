"""Rows of a measurement, their figures, and the processes that they come from."""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import sys
import textwrap
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import small_models

from edgellm import bench
from edgellm.bench.bandwidth import ReadBandwidth
from edgellm.bench.process import Process, peer_command
from edgellm.commands import bench as command
from edgellm.errors import BackendError, EdgeError, UsageError
from edgellm.sensors import Reading

FIGURES = bench.Figures(1000.0, 50.0, 0.25, 64 << 20, [900.0, 1000.0, 1100.0], [50.0], [0.25])
PEERS = bench.Figures(500.0, 40.0, 0.5, 128 << 20, [500.0], [40.0], [0.5])


def row(theirs: bench.Figures | None = None) -> bench.Row:
    return bench.Row(
        model="a model",
        file="folder/a | b\x1b",
        type="Q4_0",
        parameters=1_000_000,
        bytes=600_000,
        device="cpu",
        mode="fast",
        kv="f16",
        test=bench.Test(threads=2, prompt=128, generate=32, depth=16, batch=4),
        ours=FIGURES,
        weight_bytes=100_000_000,
        read_gb_s=2.5,
        read_repeats=[2.5],
        peer=None if theirs is None else "llama.cpp (1.2)",
        theirs=theirs,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "llama.gguf"
    small_models.write_gguf(path, "llama", layers=1)
    return path


@pytest.mark.usefixtures("cpu")
def test_a_row_for_each_test_with_medians_of_its_repeats(model: Path) -> None:
    tests = [bench.Test(threads=1, prompt=8, generate=4, depth=4, batch=2)]
    tests.append(bench.Test(threads=1, prompt=0, generate=4))
    both, decoding = (row.as_dict() for row in bench.measure(model, tests, repetitions=2))
    for name in ("prefill", "decode"):
        repeats = both[f"{name}_repeats"]
        assert isinstance(repeats, list)
        assert len(repeats) == 2
        assert both[f"{name}_tok_s"] == pytest.approx(statistics.median(repeats))
    assert (both["model"], both["type"], both["threads"]) == ("small llama", "Q4_0", 1)
    assert (both["prompt"], both["generate"], both["depth"], both["batch"]) == (8, 4, 4, 2)
    for name in ("first_token_s", "peak_rss_bytes", "weight_bytes", "read_gb_s", "read_share"):
        assert both[name] > 0, name  # type: ignore[operator]
    assert (decoding["prefill_tok_s"], decoding["prefill_repeats"]) == (None, [])
    assert not any(name.startswith("peer") for name in both)


def test_reading_is_a_share_of_the_bandwidth() -> None:
    # 50 tokens a second of 4 chats are 12.5 steps, 1.25 GB/s of 2.5.
    assert row().read_share == pytest.approx(0.5)


def test_a_peer_is_in_the_same_row() -> None:
    values = json.loads(json.dumps(row(PEERS).as_dict()))
    assert (values["decode_tok_s"], values["peer_decode_tok_s"]) == (50, 40)
    assert (values["decode_ratio"], values["prefill_ratio"]) == (1.25, 2)
    assert (values["first_token_ratio"], values["peak_rss_ratio"]) == (0.5, 0.5)
    assert values["peer"] == "llama.cpp (1.2)"


def test_a_table_of_them() -> None:
    head, rule, line = command.table([row()])
    assert len({text.count("|") for text in (head, rule, line)}) == 1
    assert "a ? b?" in line
    assert "| 1,000 /128 | 50.0 /32 | 0.25 s | 64.0 MiB | 50% of 2.5 GB/s |" in line
    *_, line, _, note = command.table([row(PEERS)])
    assert "| 1,000 (2.00 x) /128 |" in line
    assert "llama.cpp (1.2)" in note


def test_memory_is_read_by_each_thread() -> None:
    with closing(ReadBandwidth(2, 8 << 20)) as bandwidth:
        assert bandwidth.half == 2 << 20
        assert 1e8 < bandwidth.measure() < 1e13


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"context": 4}, "these tests need 8"),
        ({"repetitions": 0}, "give at least 1"),
        ({"versus": "abacus"}, "compare with llama.cpp"),
        ({"versus": "llama.cpp", "peer_python": "/nowhere/python"}, "/nowhere/python can't be run"),
    ],
)
def test_what_cannot_be_measured(model: Path, arguments: dict[str, object], said: str) -> None:
    tests = [bench.Test(threads=1, prompt=8, generate=4)]
    with pytest.raises(UsageError, match=said):
        next(bench.measure(model, tests, **arguments))  # type: ignore[arg-type]


def test_a_peer_runs_only_its_own_format(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="runs GGUF files alone"):
        peer_command("llama.cpp", sys.executable, tmp_path)


def test_a_missing_peer_is_named(model: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(BackendError, match="has no llama-cpp-python; install it"):
        peer_command("llama.cpp", str(python), model)


@pytest.mark.usefixtures("cpu")
def test_llama_cpp_beside_ours(model: Path) -> None:
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed")
    tests = [bench.Test(threads=1, prompt=8, generate=4, depth=4, batch=2)]
    (one,) = bench.measure(model, tests, repetitions=1, versus="llama.cpp")
    assert one.theirs is not None
    assert one.theirs.peak_rss_bytes > 10 << 20
    assert min(one.theirs.prefill_repeats + one.theirs.decode_repeats) > 0


def child(tmp_path: Path, code: str) -> Process:
    script = tmp_path / "child.py"
    script.write_text(textwrap.dedent(code))
    return Process([sys.executable, str(script)], {})


def test_a_childs_reason_is_ours(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="no room") as raised:
        child(tmp_path, """print('{"error": "no room", "status": 3}')""")
    assert raised.value.exit_status == 3


def test_a_child_that_dies_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"child\.py ended with status 7"):
        child(tmp_path, "raise SystemExit(7)")


def test_turns_are_ordered_and_the_child_is_ended(tmp_path: Path) -> None:
    process = child(
        tmp_path,
        """
        import json, os, time
        print("{}")
        print(json.dumps({"pid": os.getpid(), "peak_rss_bytes": 1}), flush=True)
        order = json.loads(input())
        print(json.dumps({"seconds": order["tokens"], "peak_rss_bytes": 2}), flush=True)
        time.sleep(600)
        """,
    )
    with closing(process):
        assert process.first_token_s > 0
        assert process.peak_rss_bytes == 1
        assert process.turn("decode", 5, 0, 1) == 5.0
        assert process.peak_rss_bytes == 2
    with pytest.raises(ProcessLookupError):
        os.kill(process.about["pid"], 0)


def test_heat_and_a_weak_supply_stand_below_the_table() -> None:
    hot = replace(row(), temperature_c=81.4, throttled="supply too weak")
    *_, note = command.table([hot, replace(row(), temperature_c=60.0, throttled="no"), row()])
    assert note == "The processor meanwhile, row by row: 81 °C, supply too weak; 60 °C; -."
    assert hot.as_dict()["temperature_c"] == 81.4


def test_what_was_complained_of_at_any_look_counts() -> None:
    looks = [Reading(50.0), Reading(50.0, 0x40002), Reading(50.0, 0, True)]
    assert bench._complaints(looks) == "supply too weak and clock limited"
    assert bench._complaints([Reading(50.0, 0x50000)]) == "no"
    assert bench._complaints([Reading(50.0)]) is None
