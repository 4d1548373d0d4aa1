"""A training's state on disk: all of it comes back, and nothing else is taken for one."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgellm.errors import EdgeError, FormatError, UsageError
from edgellm.training.record import History, Look, Step

pytestmark = pytest.mark.usefixtures("cpu")


class Parts:
    """What of a course is saved: one learnt matrix, its moments, what its rows have in common."""

    def __init__(self, seed: int, taken: int) -> None:
        from tinygrad import Tensor

        rng = np.random.default_rng(seed)
        self.values = {"x": rng.standard_normal((3, 5)).astype(np.float32)}
        self.moments = {"mean 0 x": self.values["x"] + 1, "square 0 x": self.values["x"] + 2}
        learnt = {name: Tensor(values).realize() for name, values in self.values.items()}
        self.network = SimpleNamespace(learnt=learnt, arrays=lambda: self.values)
        self.optimiser = SimpleNamespace(
            taken=taken, arrays=lambda: self.moments, restore=self._restore
        )
        self.tied = {"tie taken": np.array([taken], np.float32), "tie mean": self.values["x"] + 3}
        self.tie = SimpleNamespace(arrays=lambda: self.tied, restore=self._restore_tie)
        self.best = {name: values * 2 for name, values in self.values.items()}
        self.history = History([Step(1, 2.0, 1e-3, 64, 0.5)], [Look(0, 3.0)])
        self.restored: tuple[int, dict[str, np.ndarray]] | None = None
        self.restored_tie: dict[str, np.ndarray] = {}

    def _restore(self, taken: int, moments: dict[str, np.ndarray]) -> None:
        self.restored = taken, moments

    def _restore_tie(self, arrays: dict[str, np.ndarray]) -> None:
        self.restored_tie = arrays


def test_all_comes_back(tmp_path: Path) -> None:
    from edgellm.training.memory import read
    from edgellm.training.state import restore, save

    first, second = Parts(1, 7), Parts(2, 0)
    save(tmp_path / "state", first, {"rank": 2, "targets": ["*"]})  # type: ignore[arg-type]
    restore(tmp_path / "state", second, {"rank": 2, "targets": ["*"]})  # type: ignore[arg-type]
    assert second.restored is not None
    assert second.restored[0] == 7
    for name, values in first.moments.items():
        np.testing.assert_array_equal(second.restored[1][name], values)
    for name, values in first.tied.items():
        np.testing.assert_array_equal(second.restored_tie[name], values)
    np.testing.assert_array_equal(read(second.network.learnt["x"]), first.values["x"])
    np.testing.assert_array_equal(second.best["x"], first.best["x"])
    assert second.history == first.history


def test_damaged_files_are_refused_and_nothing_else_happens(tmp_path: Path) -> None:
    from edgellm.training.state import restore, save

    path, course = tmp_path / "state", Parts(1, 7)
    save(path, course, {})  # type: ignore[arg-type]
    sound = path.read_bytes()
    chance = random.Random(3)
    for number in range(300):
        damaged = bytearray(sound)
        if number % 3:
            for _ in range(chance.randint(1, 4)):
                damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        else:
            del damaged[chance.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        with contextlib.suppress(EdgeError):
            restore(path, Parts(1, 7), {})  # type: ignore[arg-type]
    path.write_bytes(b"")
    with pytest.raises(FormatError, match="leave --resume out"):
        restore(path, course, {})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="leave --resume out"):
        restore(tmp_path / "absent", course, {})  # type: ignore[arg-type]
