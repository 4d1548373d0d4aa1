"""Affinities: their gradients are slopes, and what they learn holds beyond what they have read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from plain_evidence import means

from edgellm.training import affinity
from edgellm.training.affinity import SMALL, Affinity, Request

Array = NDArray[np.float64]
WORDS, CHANNELS = 12, 5
REQUESTS = [
    Request([0, 1, 2], [[3, 4], [5], [6, 3, 7]], frozenset({1})),
    Request([8], [[3, 9], [4, 4]], frozenset({0, 1})),
    Request([2, 2, 5, 10], [[7], [6], [3], [9, 1]], frozenset()),
]
"""Of unlike lengths; of words that are said and chosen, twice, or never (the last)."""


def parameters() -> list[Array]:
    rng = np.random.default_rng(0)
    return [
        rng.normal(size=(WORDS, CHANNELS)), rng.normal(size=WORDS), rng.normal(size=WORDS),
        np.array([3.0, -1.0]),
    ]  # fmt: skip


def loss(given: list[Array]) -> float:
    """Cross entropies of each choice, and of the right ones among all where there are some; and
    what the length of vectors costs."""
    table, worth, null, (gain, bias) = given
    known = Affinity(table, np.log1p(np.exp(worth)), null)  # type: ignore[arg-type]
    each, among, said, chosen = [], [], [], []
    for request in REQUESTS:
        logits = gain * means(known, request.said, request.choices) + bias
        right = [index in request.meant for index in range(len(request.choices))]
        each += list(np.log1p(np.exp(np.where(right, -logits, logits))))
        if request.meant:
            shares = np.exp(logits) / np.exp(logits).sum()
            among.append(-np.mean(np.log(shares[right])))
        said += [(table[word] ** 2).sum() for word in request.said]
        chosen += [(table[word] ** 2).sum() for choice in request.choices for word in choice]
    cost = SMALL * (np.mean(said) + np.mean(chosen))
    return float(np.mean(each) + np.mean(among) + cost)


def test_every_gradient_is_a_slope() -> None:
    given = parameters()
    found = affinity._gradients(affinity._batch(REQUESTS), *given)  # type: ignore[arg-type]
    for values, gradients in zip(given, found, strict=True):
        slopes = np.zeros_like(values)
        for index in np.ndindex(values.shape):
            before = values[index]
            values[index] = before + 1e-5
            above = loss(given)
            values[index] = before - 1e-5
            slopes[index] = (above - loss(given)) / 2e-5
            values[index] = before
        assert np.abs(slopes).max() > 1e-3
        np.testing.assert_allclose(gradients, slopes, rtol=1e-5, atol=1e-7)


def test_what_is_padded_never_matters() -> None:
    """More places than anything needs, after them a last word that nobody says."""
    batch = affinity._batch(REQUESTS)
    padded = replace(
        batch,
        said=np.pad(batch.said, ((0, 0), (0, 2)), constant_values=-1),
        words=np.pad(batch.words, ((0, 0), (0, 3)), constant_values=-1),
        choice=np.pad(batch.choice, ((0, 0), (0, 3), (0, 2))),
        meant=np.pad(batch.meant, ((0, 0), (0, 2)), constant_values=-1),
    )
    given = parameters()
    plain = affinity._gradients(batch, *given)  # type: ignore[arg-type]
    given[0][-1], given[1][-1], given[2][-1] = 100, 100, -100
    for found in (batch, padded):
        for one, other in zip(plain, affinity._gradients(found, *given), strict=True):  # type: ignore[arg-type]
            np.testing.assert_allclose(other, one, atol=1e-7)
    for one in plain[:3]:
        assert not one[-1].any()


THINGS, FILLERS = 8, 4
"""Each thing has three words that are asked and three that are declared. The first of both never
occur in one request, nor do the second, nor the third."""


def asked(thing: int, which: int) -> int:
    return 6 * thing + which


def declared(thing: int, which: int) -> int:
    return 6 * thing + 3 + which


def request(rng: np.random.Generator, held_out: bool) -> Request:
    """The first of three things, or none of them, among words that tell nothing."""
    things = [int(thing) for thing in rng.permutation(THINGS)[:4]]
    meant = 3 if not held_out and rng.random() < 0.2 else 0
    which = int(rng.integers(3))
    shown = [which] * 3 if held_out else (which + rng.integers(1, 3, size=3)) % 3
    fillers = [int(filler) for filler in 6 * THINGS + rng.integers(FILLERS, size=4)]
    choices = [
        [fillers[0], declared(thing, int(index)), *fillers[: int(rng.integers(3))]]
        for thing, index in zip(things[:3], shown, strict=True)
    ]
    said = [fillers[2], asked(things[meant], which), *fillers[3:]]
    return Request(said, choices, frozenset({0} if meant == 0 else ()))


SOME = 6 * THINGS + FILLERS + 1
"""The last word never occurs."""


def learnt(seed: int, steps: int) -> Affinity:
    rng = np.random.default_rng(1)
    return affinity.learn([request(rng, False) for _ in range(2000)], SOME, 16, seed, steps)


@pytest.fixture(scope="module")
def found() -> Affinity:
    return learnt(0, 1000)


def test_pairs_that_were_never_read_are_understood(found: Affinity) -> None:
    rng = np.random.default_rng(2)
    unread = [request(rng, True) for _ in range(300)]
    best = [int(np.argmax(means(found, one.said, one.choices))) in one.meant for one in unread]
    assert np.mean(best) > 0.98


def test_words_match_those_of_their_own_thing_best(found: Affinity) -> None:
    scores = found.vectors @ found.vectors.T - found.null
    asking = np.array([[asked(thing, which) for which in range(3)] for thing in range(THINGS)])
    for thing in range(THINGS):
        for which in range(3):
            own = scores[:, declared(thing, which)]
            assert own[asking[thing]].min() > np.delete(own[asking], thing, axis=0).max() + 1
    assert (found.worth[:-1] > 0).all()
    assert found.worth[asking].min() > 2 * found.worth[6 * THINGS : -1].max()  # of fillers


def test_first_channels_tell_most(found: Affinity) -> None:
    told = (found.vectors**2).sum(axis=0)
    assert told[0] > 0
    assert (np.diff(told) <= 1e-4 * told[0]).all()
    apart = found.vectors.T @ found.vectors
    np.testing.assert_allclose(apart, np.diag(told), atol=1e-3 * told[0])


def test_words_that_never_occur_have_no_vector_and_no_worth(found: Affinity) -> None:
    assert not found.vectors[-1].any()
    assert found.worth[-1] == 0
    assert found.vectors[:-1].any(axis=1).all()


def test_the_same_seed_gives_the_same_affinities() -> None:
    first, again, other = (learnt(seed, 3) for seed in (3, 3, 4))
    for name in ("vectors", "worth", "null"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
        assert not np.array_equal(getattr(first, name), getattr(other, name))
