"""The bundled filters, each against its definition written out naively."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from letters import Letters
from numpy.typing import NDArray

from edgellm import plugins
from edgellm.errors import UsageError
from edgellm.sampling import Filter, Sampling, softmax

Logits = NDArray[np.float32]
logits_lists = st.lists(
    st.floats(-20, 20, width=32).map(lambda x: round(x, 2)) | st.just(-math.inf),
    min_size=1,
    max_size=30,
).filter(lambda values: max(values) > -math.inf)
histories = st.lists(st.integers(0, 4), max_size=40)


def make(name: str, tokenizer: Letters | None = None, **options: Any) -> Filter:
    hook = plugins.load("sampler").hook
    made = hook.edgellm_sampler(name=name, options=Sampling(**options), tokenizer=tokenizer)
    assert isinstance(made.apply, object)
    return made  # type: ignore[no-any-return]


def apply(
    name: str, logits: Sequence[float], history: Sequence[int] = (), **options: Any
) -> Logits:
    return make(name, **options).apply(np.array(logits, np.float32), history)


def kept(logits: Logits) -> set[int]:
    return {i for i, logit in enumerate(logits) if logit > -math.inf}


def probabilities(logits: Sequence[float]) -> list[float]:
    highest = max(logits)
    weights = [math.exp(logit - highest) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def by_likelihood(logits: Sequence[float]) -> list[int]:
    """Ids of those not given up, likeliest first, among equals the lower id."""
    ids = [i for i, logit in enumerate(logits) if logit > -math.inf]
    return sorted(ids, key=lambda i: -logits[i])


@given(logits_lists, st.integers(0, 40))
def test_top_k(logits: list[float], k: int) -> None:
    result = apply("top_k", logits, top_k=k)
    assert kept(result) == set(by_likelihood(logits)[: k or None])
    assert all(result[i] == np.float32(logits[i]) for i in kept(result))


@given(logits_lists, st.floats(0, 1))
def test_top_p(logits: list[float], p: float) -> None:
    chances = probabilities(logits)
    order = by_likelihood(logits)
    sums = list(itertools.accumulate(chances[i] for i in order))
    assume(all(abs(total - p) > 1e-6 for total in sums) or p == 1)
    needed = next((n + 1 for n, total in enumerate(sums) if total >= p), len(order))
    expected = order if p == 1 else order[:needed]
    assert kept(apply("top_p", logits, top_p=p)) == set(expected)


def test_top_p_of_a_large_vocabulary() -> None:
    logits = np.random.default_rng(3).normal(size=5000).astype(np.float32) * 3
    for p in (0.1, 0.9, 0.9999):
        order = np.argsort(-logits, kind="stable")
        needed = int(np.searchsorted(np.cumsum(softmax(logits)[order]), p)) + 1
        assert kept(apply("top_p", logits, top_p=p)) == set(order[:needed].tolist())


@given(logits_lists, st.floats(0, 1))
def test_min_p(logits: list[float], p: float) -> None:
    chances = probabilities(logits)
    ratios = [chance / max(chances) for chance in chances]
    assume(all(abs(ratio - p) > 1e-5 * p for ratio in ratios if ratio < 1))
    expected = {i for i, ratio in enumerate(ratios) if ratio >= p and logits[i] > -math.inf}
    assert kept(apply("min_p", logits, min_p=p)) == expected


@given(logits_lists, st.floats(0.01, 0.99))
def test_typical(logits: list[float], p: float) -> None:
    chances = probabilities(logits)
    possible = [i for i, chance in enumerate(chances) if chance > 0]
    entropy = -sum(chances[i] * math.log(chances[i]) for i in possible)
    distance = {i: abs(-math.log(chances[i]) - entropy) for i in possible}
    order = sorted(possible, key=lambda i: distance[i])
    far = sorted(distance.values())
    assume(all(b - a > 1e-6 or a == b for a, b in itertools.pairwise(far)))
    same = {logits[i] for i in possible}
    assume(len(set(far)) == len(same))  # different logits may lie equally far, but rounded so
    sums = list(itertools.accumulate(chances[i] for i in order))
    assume(all(abs(total - p) > 1e-6 for total in sums))
    needed = next((n + 1 for n, total in enumerate(sums) if total > p), len(order))
    assert kept(apply("typ_p", logits, typical_p=p)) == set(order[:needed])


@given(logits_lists, st.floats(0.01, 10))
def test_temperature(logits: list[float], temperature: float) -> None:
    result = probabilities(
        [float(x) for x in apply("temperature", logits, temperature=temperature)]
    )
    expected = probabilities([logit / temperature for logit in logits])
    assert result == pytest.approx(expected, abs=1e-4)


def test_temperature_0_keeps_the_likeliest_alone() -> None:
    assert kept(apply("temperature", [1, 3, 3], temperature=0.0)) == {1}
    assert np.isfinite(apply("temperature", [1e4, 2e4], temperature=1e-38)[1])


@given(
    st.lists(st.floats(-5, 5, width=32), min_size=5, max_size=5),
    histories,
    st.integers(-1, 20),
    st.floats(0.5, 3),
    st.floats(-2, 2),
    st.floats(-2, 2),
)
def test_penalties(
    logits: list[float],
    history: list[int],
    last_n: int,
    repeat: float,
    presence: float,
    frequency: float,
) -> None:
    recent = history if last_n < 0 else history[len(history) - min(last_n, len(history)) :]
    expected = list(logits)
    for token in set(recent):
        expected[token] *= repeat if expected[token] <= 0 else 1 / repeat
        expected[token] -= recent.count(token) * frequency + presence
    result = apply(
        "penalties",
        logits,
        history,
        repeat_last_n=last_n,
        repeat_penalty=repeat,
        presence_penalty=presence,
        frequency_penalty=frequency,
    )
    assert result == pytest.approx(np.array(expected), abs=1e-3)


def repeated(tokens: list[int], token: int, breakers: set[int]) -> int:
    """The longest end of `tokens` without a breaker that occurred earlier, followed by `token`."""
    longest = 0
    for length in range(1, len(tokens)):
        end = tokens[-length:]
        if breakers & set(end):
            break
        places = range(len(tokens) - length)
        if any(tokens[i : i + length] == end and tokens[i + length] == token for i in places):
            longest = length
    return longest


@given(histories, st.integers(-1, 20), st.integers(1, 4), st.sets(st.integers(0, 4), max_size=1))
def test_dry(history: list[int], last_n: int, allowed: int, breakers: set[int]) -> None:
    tokenizer = Letters([b"a", b"b", b"c", b"d", b"e"])
    recent = history if last_n < 0 else history[len(history) - min(last_n, len(history)) :]
    expected = [0.0] * 5
    for token in set(range(5)) - breakers:
        length = repeated(recent, token, breakers)
        if length >= allowed:
            expected[token] -= 0.8 * 1.5 ** (length - allowed)
    dry = make(
        "dry",
        tokenizer,
        dry_multiplier=0.8,
        dry_base=1.5,
        dry_allowed_length=allowed,
        dry_penalty_last_n=last_n,
        dry_sequence_breakers=tuple("abcde"[i] for i in breakers),
    )
    assert dry.apply(np.zeros(5, np.float32), history) == pytest.approx(expected, rel=1e-5)


def test_dry_stays_finite_and_knows_control_tokens() -> None:
    assert np.isfinite(apply("dry", [0.0, 0.0], [0] * 3000, dry_multiplier=1.0)).all()
    letters = Letters([b"a", b"b"], turn=2)
    for breakers, penalised in (("<turn>",), False), (("\n",), True):
        dry = make("dry", letters, dry_multiplier=1.0, dry_sequence_breakers=breakers)
        history = [0, 2, 1, 0, 2] if penalised else [0, 2, 0, 0, 2]
        assert (dry.apply(np.zeros(3, np.float32), history) < 0).any() == penalised


@given(st.lists(logits_lists, min_size=1, max_size=6), st.floats(0, 8), st.floats(0, 1))
def test_mirostat(steps: list[list[float]], tau: float, eta: float) -> None:
    mirostat = make("mirostat", mirostat=2, mirostat_tau=tau, mirostat_eta=eta)
    mu, history = 2 * tau, [0]
    for logits in steps:
        chances = probabilities(logits)
        surprise = [-math.log2(chance) if chance else math.inf for chance in chances]
        assume(all(abs(bits - mu) > 1e-4 for bits in surprise))
        order = by_likelihood(logits)
        expected = {i for i in order if surprise[i] < mu} or {order[0]}
        result = mirostat.apply(np.array(logits, np.float32), history)
        assert kept(result) == expected
        drawn = min(expected)
        left = probabilities([float(logit) for logit in result])
        mu -= eta * (-math.log2(left[drawn]) - tau)
        history.append(drawn)


def test_mirostat_goes_on_with_extreme_options() -> None:
    mirostat = make("mirostat", mirostat=2, mirostat_tau=100, mirostat_eta=10)
    history = [0]
    logits = np.array([1e4, 0, -1e4, -math.inf], np.float32)
    for drawn in [*[0] * 30, 2]:  # the surest token drives mu up, the unlikeliest far down
        left = kept(mirostat.apply(logits, history))
        history.append(drawn)
    assert left == {0, 1, 2}
    assert kept(mirostat.apply(logits, history)) == {0}
    assert mirostat.mu < -100_000


def test_mirostat_learns_only_from_a_token_that_it_left() -> None:
    for history in ([], [1], [3], [9]):
        mirostat = make("mirostat", mirostat=2, mirostat_tau=0.6, mirostat_eta=1)
        logits = np.array([0, -9, 0, -9], np.float32)
        assert kept(mirostat.apply(logits, [])) == {0, 2}
        mirostat.apply(logits, history)
        assert mirostat.mu == 1.2
        mirostat.apply(logits, [2])
        assert mirostat.mu == pytest.approx(0.8, abs=1e-3)


def test_logit_bias() -> None:
    biases = {1: 2.5, 3: -math.inf}
    assert apply("logit_bias", [0, 0, 0, 0], logit_bias=biases).tolist() == [0, 2.5, 0, -math.inf]
    with pytest.raises(UsageError, match="the token 9; ids go from 0 to 3"):
        apply("logit_bias", [0, 0, 0, 0], logit_bias={9: 1.0})


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p", "typ_p", "temperature", "mirostat"])
def test_filters_always_leave_a_token(name: str) -> None:
    options: dict[str, Any] = {"top_k": 1, "top_p": 0.0, "min_p": 1.0, "typical_p": 0.0}
    for logits in ([0.0], [-math.inf, -1e30], [5.0, 5.0], [1e30, -1e30]):
        assert kept(apply(name, logits, mirostat=2, mirostat_tau=0.0, **options))


def test_published_examples() -> None:
    """Small cases worked out by hand."""

    def left(name: str, *chances: float, **options: float) -> set[int]:
        return kept(apply(name, [math.log(p) for p in chances], **options))

    assert left("top_p", 0.1, 0.2, 0.3, 0.4, top_p=0.0) == {3}
    assert left("top_p", 0.1, 0.2, 0.3, 0.4, top_p=0.7) == {2, 3}
    assert left("top_p", 0.1, 0.2, 0.3, 0.4, top_p=0.8) == {1, 2, 3}
    assert left("min_p", 0.1, 0.2, 0.3, 0.4, min_p=0.26) == {1, 2, 3}
    assert left("min_p", 0.1, 0.2, 0.3, 0.4, min_p=0.51) == {2, 3}
    assert left("min_p", 0.1, 0.2, 0.3, 0.4, min_p=1.0) == {3}
    assert left("typ_p", 0.97, 0.01, 0.01, 0.01, typical_p=0.5) == {0}
    assert left("typ_p", 0.4, 0.2, 0.2, 0.2, typical_p=0.5) == {1, 2, 3}
    dry = apply("dry", [0, 0, 0, 0], [0, 1, 2, 0, 1], dry_multiplier=2.0, dry_base=1.1)
    assert dry.tolist() == [0, 0, -2, 0]
