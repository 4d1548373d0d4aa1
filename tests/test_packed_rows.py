"""Rows of samples: nothing is lost, nothing is mixed up."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgellm.training import packed_rows
from edgellm.training.batch import IGNORED
from edgellm.training.samples import Sample


def sample(size: int, start: int, is_text: bool = False) -> Sample:
    """Distinct tokens, the second half of which is learnt, or all."""
    learnt = np.arange(size) >= (0 if is_text else size // 2)
    return Sample(np.arange(start, start + size, dtype=np.int32), learnt)


samples = st.lists(st.tuples(st.integers(2, 40), st.booleans()), min_size=1, max_size=30).map(
    lambda sizes: [sample(size, 1000 * n, text) for n, (size, text) in enumerate(sizes, 1)]
)


@given(samples, st.integers(2, 24), st.integers(0, 3), st.booleans())
def test_every_learnt_token_is_predicted_once(
    given: list[Sample], length: int, seed: int, together: bool
) -> None:
    fitting, longer = packed_rows.cut(given, length)
    assert longer == sum(len(sample.tokens) > length + 1 for sample in given)
    rows = packed_rows.pack(fitting, length, seed, together)
    batch = packed_rows.batch(rows, len(rows), length)
    found = batch.targets[batch.targets != IGNORED].tolist()
    wanted = [
        token
        for one in fitting
        for token, is_learnt in zip(one.tokens[1:], one.learnt[1:], strict=True)
        if is_learnt
    ]
    assert sorted(found) == sorted(wanted)
    texts = [one for one in given if one.learnt.all()]
    for one in texts:  # a long text is learnt to its end
        assert set(one.tokens[1:].tolist()) <= set(found)


@given(samples, st.integers(2, 24))
def test_a_position_sees_its_own_sample(given: list[Sample], length: int) -> None:
    fitting, _ = packed_rows.cut(given, length)
    rows = packed_rows.pack(fitting, length, 1)
    batch = packed_rows.batch(rows, len(rows) + 1, length)
    for tokens, targets, first in zip(batch.tokens, batch.targets, batch.first, strict=True):
        for at in range(length):
            assert 0 <= first[at] <= at
            seen = tokens[first[at] : at + 1]
            if tokens[at]:
                assert len(set(seen // 1000)) == 1
                assert targets[at] in (IGNORED, tokens[at] + 1)


def test_rows_are_full() -> None:
    many = [sample(9, 100 * n) for n in range(1, 101)]
    rows = packed_rows.pack(many, 32, 0)
    assert len(rows) == 25

    def begins(seed: int) -> list[int]:
        return [int(row[0].tokens[0]) for row in packed_rows.pack(many, 32, seed)]

    assert begins(0) == begins(0) != begins(1)


def test_each_epoch_has_an_order_of_its_own() -> None:
    orders = [packed_rows.order(50, 3, epoch) for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[1]) == list(range(50))
