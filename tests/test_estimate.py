"""What a training is said to take."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm import checkpoint, runtime
from edgellm.errors import FitError
from edgellm.shapes import write_shape
from edgellm.training import estimate, low_rank
from edgellm.training.estimate import Shape


def learnt(base: checkpoint.Checkpoint, rank: int) -> dict[str, tuple[int, ...]]:
    values = low_rank.first_values(low_rank.chosen(base, ["*"]), rank, 0)
    return {name: array.shape for name, array in values.items()}


def test_memory_grows_with_all_that_takes_some() -> None:
    base = checkpoint.open(runtime.default_model())
    least = estimate.memory(base, Shape(1, 64), learnt(base, 4))
    assert least < estimate.memory(base, Shape(2, 64), learnt(base, 4))
    assert least < estimate.memory(base, Shape(1, 128), learnt(base, 4))
    assert least < estimate.memory(base, Shape(1, 64), learnt(base, 64))


def test_a_quantised_model_is_counted_as_it_is_packed(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_shape("stories15m", "Q4_0", path)
    base = checkpoint.open(path)
    need = estimate.memory(base, Shape(1, 64), learnt(base, 8))
    assert need < estimate.BASE_BYTES + path.stat().st_size + (64 << 20)


def test_rows_at_once_divide_those_of_a_step() -> None:
    base = checkpoint.open(runtime.default_model())
    shapes = learnt(base, 8)
    for rows in (1, 6, 7, 12):
        whole, need = estimate.fit(base, rows, 128, shapes, None)
        assert whole.rows == rows
        some, less = estimate.fit(
            base, rows, 128, shapes, max(need - 1, estimate.memory(base, Shape(1, 128), shapes))
        )
        assert rows % some.rows == 0
        assert less <= need
    with pytest.raises(FitError, match="are allowed"):
        estimate.fit(base, 4, 128, shapes, 1000)


def test_memory_is_spent_to_save_time_where_that_is_little() -> None:
    base = checkpoint.open(runtime.default_model())
    shapes = learnt(base, 8)
    shape, need = estimate.fit(base, 4, 128, shapes, None)
    assert shape == Shape(4, 128, roomy=True)
    assert need == estimate.memory(base, shape, shapes)
    assert estimate.fit(base, 4, 128, shapes, need) == (shape, need)
    assert estimate.fit(base, 4, 128, shapes, need - 1)[0] == Shape(4, 128)
    assert estimate.fit(base, 64, 1024, shapes, None)[0] == Shape(64, 1024)


def test_time_grows_with_the_model() -> None:
    base = checkpoint.open(runtime.default_model())
    assert 0 < estimate.seconds_per_token(base, False, Shape(1, 256)) < 1
