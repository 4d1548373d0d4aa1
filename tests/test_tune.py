"""Adapting models for real, small: the loss falls, and whatever interrupts it costs nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgellm import adapter, checkpoint, cli, runtime
from edgellm.errors import BackendError, FitError, FormatError, UsageError
from edgellm.training.settings import Settings
from edgellm.tune import Tuning

pytestmark = pytest.mark.usefixtures("cpu")

TINY = Path(__file__).parent / "data" / "models" / "llama" / "model.gguf"
HIVES = ("the north hive", "hive two", "the old hive", "hive nine")
QUESTIONS = ("how heavy is {}", "weigh {}", "what does {} weigh")


def chats(path: Path, count: int = 48) -> Path:
    """Samples of a device that the default model has never heard of."""
    talks = []
    for number in range(count):
        hive = HIVES[number % len(HIVES)]
        question = QUESTIONS[number // len(HIVES) % len(QUESTIONS)].format(hive)
        answer = f"I read the scale under {hive}."
        roles = ("user", question), ("assistant", answer)
        talks.append({"messages": [{"role": role, "content": text} for role, text in roles]})
    path.write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    return path


def text(path: Path) -> Path:
    """For the tiny model, whose vocabulary knows no more."""
    letters = "".join(random.Random(1).choices("0123456789:;<=>?@", k=40)) * 60
    path.write_text(letters)
    return path


def test_an_adapter_is_learnt_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, output = runtime.default_model(), tmp_path / "hives"
    arguments = [str(model), str(chats(tmp_path / "chats.jsonl")), "-o", str(output), "--json"]
    options = "-c 64 -b 256 --epochs 6 -lr 5e-3 -val-split 0.2 --looks 3 --rank 4"
    assert cli.main(["tune", *arguments, *options.split()]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["held_out_loss"] < 0.7 * result["held_out_loss_before"]
    base = checkpoint.open(model)
    made = adapter.read(output, base)
    assert made.rank == 4
    assert made.base_sha256 == adapter.base_sha256(base)
    assert set(made.matrices) == {n for n in adapter.targets(base) if n.startswith("blk.")}
    assert all(np.abs(matrix.b).max() > 0 for matrix in made.matrices.values())
    log = json.loads((tmp_path / "hives.log.json").read_text())
    assert [step["step"] for step in log["steps"]] == list(range(1, result["steps"] + 1))
    assert (tmp_path / "hives.loss.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "hives.state").exists()


def test_a_whole_model_is_learnt_and_written(tmp_path: Path) -> None:
    output = tmp_path / "changed.gguf"
    data = text(tmp_path / "text.txt")
    arguments = [str(TINY), str(data), "-o", str(output), "--full", "-c", "32", "-b", "128"]
    assert cli.main(["tune", *arguments, "--steps", "12", "-lr", "1e-2", "-val-split", "0.2"]) == 0
    log = json.loads((tmp_path / "changed.gguf.log.json").read_text())
    assert log["held_out_loss"] < 0.8 * log["held_out_loss_before"]
    before, after = checkpoint.open(TINY), checkpoint.open(output)
    assert before.config == after.config
    for name, tensor in before.tensors.items():
        assert after.tensors[name].type == tensor.type
        assert not np.array_equal(after.tensors[name].float32(), tensor.float32())


def prepared(tmp_path: Path, **options: object) -> Tuning:
    settings = {"length": 32, "batch": 64, "steps": 6, "learning_rate": 1e-2, "dropout": 0.1}
    return Tuning(TINY, text(tmp_path / "text.txt"), Settings(**{**settings, **options}))  # type: ignore[arg-type]


class Silent:
    """Stops after so many batches."""

    def __init__(self, batches: int = 1 << 30) -> None:
        self.left = batches

    def stopping(self) -> bool:
        self.left -= 1
        return self.left < 0

    def stepped(self, history: object) -> None: ...

    def looked(self, history: object) -> None: ...


def test_a_training_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    from edgellm.training.state import restore, save

    tuning, state = prepared(tmp_path, rank=2), tmp_path / "state"
    identity = tuning.identity()
    whole = tuning.course()
    assert whole.run(Silent(), lambda: None, 1e9)

    first = tuning.course()
    assert not first.run(Silent(4), lambda: save(state, first, identity), 1e9)
    second = tuning.course()
    restore(state, second, identity)
    assert second.optimiser.taken == 4
    assert second.run(Silent(), lambda: None, 1e9)
    losses = [[step.loss for step in course.history.steps] for course in (whole, second)]
    assert losses[0] == losses[1]
    for name, values in whole.learnt().items():
        np.testing.assert_array_equal(values, second.learnt()[name])

    with pytest.raises(UsageError, match=r"learning_rate 0\.01, not 0\.02"):
        restore(state, second, {**identity, "learning_rate": 0.02})


def test_it_ends_early_and_keeps_the_best(tmp_path: Path) -> None:
    """A rate at which nothing is learnt."""
    tuning = prepared(tmp_path, rank=2, steps=40, looks=20, patience=2, learning_rate=1e-9)
    course = tuning.course()
    course.run(Silent(), lambda: None, 1e9)
    assert course.optimiser.taken < 40
    assert course.history.best == min(course.history.looks, key=lambda look: look.loss)
    assert course.best


def test_killed_at_random_moments_it_reaches_the_same_loss(tmp_path: Path) -> None:
    kills = 10 if os.environ.get("EDGELLM_SOAK") else 1
    data = text(tmp_path / "text.txt")
    command = [sys.executable, "-m", "edgellm", "tune", str(TINY), str(data), "--save-every", "0"]
    command += [
        "--steps",
        "30",
        "-c",
        "32",
        "-b",
        "64",
        "-lr",
        "1e-2",
        "--rank",
        "2",
        "--looks",
        "1",
        "-o",
    ]

    def loss(name: str) -> float:
        return float(json.loads((tmp_path / f"{name}.log.json").read_text())["held_out_loss"])

    subprocess.run([*command, str(tmp_path / "whole")], check=True, stderr=subprocess.DEVNULL)
    state, output = tmp_path / "killed.state", [str(tmp_path / "killed")]
    chance = random.Random(kills)
    for _ in range(kills):
        resumed = ["--resume"] if state.exists() else []
        process = subprocess.Popen([*command, *output, *resumed], stderr=subprocess.DEVNULL)
        before = state.stat().st_mtime_ns if state.exists() else 0
        while process.poll() is None and (not state.exists() or state.stat().st_mtime_ns == before):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
    last = ["--resume"] if state.exists() else []
    subprocess.run([*command, *output, *last], check=True, stderr=subprocess.DEVNULL)
    assert loss("killed") == pytest.approx(loss("whole"), abs=1e-3)


def test_what_cannot_be_is_refused_before_the_work(tmp_path: Path) -> None:
    data = text(tmp_path / "text.txt")
    with pytest.raises(FitError, match="shorter rows"):
        Tuning(TINY, data, Settings(length=32), max_bytes=1 << 20)
    with pytest.raises(UsageError, match="'attn_x'; there are attn_k, attn_output"):
        Tuning(TINY, data, Settings(length=32, targets=("attn_x",)))
    with pytest.raises(UsageError, match="dropout 2"):
        Tuning(TINY, data, Settings(dropout=2))
    with pytest.raises(BackendError):
        Tuning(TINY, data, Settings(length=32), device="toaster")
    with pytest.raises(UsageError, match="needs it; give a GGUF file"):
        Tuning(TINY.parent, data, Settings(length=32, full=True))
    with pytest.raises(FormatError):
        Tuning(data, data, Settings())


def test_a_dry_run_tells_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = text(tmp_path / "text.txt")
    output = tmp_path / "adapter.gguf"
    assert cli.main(["tune", str(TINY), str(data), "-o", str(output), "--dry-run", "-c", "32"]) == 0
    said = capsys.readouterr().err
    assert "samples in" in said
    assert "estimate:" in said
    assert list(tmp_path.iterdir()) == [data]


def test_less_memory_makes_smaller_batches(tmp_path: Path) -> None:
    model, data = runtime.default_model(), chats(tmp_path / "chats.jsonl")
    settings = Settings(length=64, batch=512, together=False)
    roomy = Tuning(model, data, settings).forecast
    plain = Tuning(model, data, settings, max_bytes=roomy.nbytes - 1).forecast
    tight = Tuning(model, data, settings, max_bytes=plain.nbytes - 1).forecast
    assert roomy.shape == replace(plain.shape, roomy=True)
    assert tight.shape.rows < plain.shape.rows
    assert tight.nbytes < plain.nbytes < roomy.nbytes
    assert tight.shape.rows * tight.together == plain.shape.rows * plain.together


def test_what_is_known_comes_once_evenly_between_what_is_new(tmp_path: Path) -> None:
    data, known = chats(tmp_path / "chats.jsonl"), tmp_path / "known.jsonl"
    known.write_text("".join(json.dumps({"text": f"known {n}"}) + "\n" for n in range(30)))
    settings = Settings(length=64, batch=256, epochs=3, held_out=0, together=False)
    tuning = Tuning(runtime.default_model(), data, settings, rehearsed=known)
    new, old = len(tuning.data.rows), len(tuning.data.known)
    assert old == 30
    wanted = [sample.tokens.tobytes() for row in tuning.data.known for sample in row]
    assert tuning.forecast.steps == -(-(3 * new + old) // 4)
    batches = [batch for step in range(tuning.forecast.steps) for batch in tuning._batches(step)]
    rows = [row[row >= 0] for batch in batches for row in batch.tokens]
    places = []
    for place, row in enumerate(rows[: 3 * new + old]):
        found = [at for at, tokens in enumerate(wanted) if row.tobytes().startswith(tokens[:-4])]
        places += [place] * bool(found)
    assert len(places) == old
    gaps = np.diff(places)
    assert gaps.max() - gaps.min() <= 1
    plain = Tuning(runtime.default_model(), data, settings)
    assert plain.data.sha256 != tuning.data.sha256
    known.write_text("")
    with pytest.raises(FormatError, match="known"):
        Tuning(runtime.default_model(), data, settings, rehearsed=known)
