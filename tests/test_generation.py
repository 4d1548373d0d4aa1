"""One answer alone: pieces, limits, statistics, errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_executor import BOS, EOS, VOCAB, ToyExecutor, ToyTokenizer

from edgellm.channel import Done
from edgellm.errors import ContextError, UsageError
from edgellm.generation import Generation, Piece, SingleSlot, generate
from edgellm.sampling import Sampling
from edgellm.tools.grammar import Grammars

GREEDY = Sampling(temperature=0)
PROMPT = [BOS, *b"hello"]


def run(executor: ToyExecutor | None = None, **options: Any) -> Iterator[Piece]:
    options = {"tokens": PROMPT, "sampling": GREEDY, "max_tokens": 10, **options}
    return generate(SingleSlot(executor or ToyExecutor()), ToyTokenizer(), **options)


def reference(executor: ToyExecutor, prompt: list[int], count: int) -> list[int]:
    """The greedy tokens, computed anew from the beginning for each."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(executor.prefill(tokens, 0, 0).argmax()))
    return tokens[len(prompt) :]


def test_pieces_are_the_models_tokens_and_their_text() -> None:
    pieces = list(run())
    assert [piece.token for piece in pieces] == reference(ToyExecutor(), PROMPT, 10)
    assert "".join(p.text for p in pieces) == ToyTokenizer().decode([p.token or 0 for p in pieces])
    assert [piece.done is None for piece in pieces] == [True] * 9 + [False]


def test_statistics_ride_on_the_last_piece() -> None:
    done = list(run())[-1].done
    assert done is not None
    assert (done.reason, done.tokens, done.prompt_tokens, done.cached_tokens) == (
        "length",
        10,
        6,
        0,
    )
    assert 0 <= done.first_token_s <= done.seconds


def test_each_token_is_fed_once() -> None:
    executor = ToyExecutor()
    list(run(executor))
    assert executor.record == [("prefill", (0,), (6,))] + [("run", (0,), (1,))] * 9


def test_an_end_token_ends_the_answer_and_is_its_last_piece() -> None:
    pieces = list(run(ToyExecutor(ends=4), max_tokens=-1))
    assert [piece.token for piece in pieces].index(EOS) == len(pieces) - 1
    assert pieces[-1].text == ""
    assert pieces[-1].done is not None
    assert pieces[-1].done.reason == "stop"


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(1, 5))
def test_a_stop_string_ends_the_answer_before_it(start: int, length: int) -> None:
    whole = "".join(piece.text for piece in run(max_tokens=50))
    stop = whole[start : start + length]
    pieces = list(run(max_tokens=50, stop=[stop]))
    assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)]
    assert pieces[-1].done is not None
    assert pieces[-1].done.reason == "stop"
    assert len(pieces) == whole.index(stop) + length


def test_the_context_end_ends_the_answer() -> None:
    pieces = list(run(ToyExecutor(context=16), max_tokens=-1))
    assert len(pieces) == 16 - len(PROMPT) + 1  # the last one is drawn, but not fed
    assert pieces[-1].done is not None
    assert pieces[-1].done.reason == "length"
    full = list(run(ToyExecutor(context=len(PROMPT))))
    assert len(full) == 1


def test_no_tokens_wanted_is_one_piece_without_token() -> None:
    executor = ToyExecutor()
    (piece,) = run(executor, max_tokens=0)
    assert (piece.token, piece.text) == (None, "")
    assert piece.done is not None
    assert piece.done.tokens == 0
    assert not executor.record


def test_echo_begins_the_text() -> None:
    plain = [piece.text for piece in run()]
    assert [piece.text for piece in run(echo="hello")] == ["hello" + plain[0], *plain[1:]]


def test_the_same_seed_gives_the_same_tokens() -> None:
    def tokens(seed: int) -> list[int | None]:
        return [piece.token for piece in run(sampling=Sampling(seed=seed, temperature=2))]

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)


def test_errors_come_before_the_first_piece_and_name_the_sizes() -> None:
    with pytest.raises(ContextError, match=r"97 tokens.*holds 96.*-c"):
        run(tokens=[1] * 97)
    with pytest.raises(UsageError, match="empty"):
        run(tokens=[])
    with pytest.raises(UsageError, match=f"token {VOCAB} .*0 to {VOCAB - 1}"):
        run(tokens=[BOS, VOCAB])
    with pytest.raises(UsageError, match="token -1"):
        run(tokens=[-1])


class SpacedTokenizer(ToyTokenizer):
    """Puts a space before every text, as SentencePiece does."""

    def encode(
        self, text: str, add_special: bool = False, parse_special: bool = False
    ) -> list[int]:
        return super().encode(" " + text, add_special, parse_special)


@pytest.mark.parametrize(
    ("tokenizer", "prompt", "first"),
    [
        (SpacedTokenizer(), [BOS], "x"),
        (SpacedTokenizer(), [BOS, 65], " x"),
        (ToyTokenizer(), [BOS], " x"),
    ],
)
def test_the_space_before_every_text_is_dropped_where_a_text_begins(
    tokenizer: ToyTokenizer, prompt: list[int], first: str
) -> None:
    class Spaces(ToyExecutor):
        def _logits(self, tokens: Any) -> Any:
            return np.eye(VOCAB, dtype=np.float32)[ord("x" if tokens[-1] == ord(" ") else " ")]

    pieces = generate(SingleSlot(Spaces()), tokenizer, prompt, GREEDY, 4)
    assert "".join(piece.text for piece in pieces) == first + " x"


def rolled(tokens: list[int], keep: int, context: int) -> list[int]:
    if len(tokens) <= context:
        return tokens
    rest = tokens[keep:]
    return tokens[:keep] + rest[len(rest) - len(rest) // 2 :]


@pytest.mark.parametrize(("context", "keep"), [(16, 0), (16, 3), (17, 8), (9, 100), (6, 1)])
def test_a_full_context_rolls_if_told_to(context: int, keep: int) -> None:
    executor = ToyExecutor(context=context)
    tokens, drawn = list(PROMPT), []
    for _ in range(60):
        drawn.append(int(executor.prefill(tokens, 0, 0).argmax()))
        tokens = rolled([*tokens, drawn[-1]], min(keep, context // 2), context)
    pieces = list(run(ToyExecutor(context=context), max_tokens=60, keep=keep))
    assert [piece.token for piece in pieces] == drawn
    assert pieces[-1].done is not None
    assert (pieces[-1].done.reason, pieces[-1].done.tokens) == ("length", 60)


def guided(rules: str, count: int = -1, **options: Any) -> tuple[str, Done]:
    """What comes of a grammar, token by token; and its end."""
    executor, tokenizer = ToyExecutor(), ToyTokenizer()
    grammar = Grammars(tokenizer).compile(rules)
    generation = Generation(
        executor, tokenizer, PROMPT, options.pop("sampling", GREEDY), count, grammar=grammar
    )
    slot, text = SingleSlot(executor), ""
    while True:
        piece = generation.accept(generation.draw(slot.logits(generation)))
        text += piece.text
        if piece.done is not None:
            return text, piece.done


@pytest.mark.parametrize(
    "sampling",
    [GREEDY, Sampling(seed=1), Sampling(seed=1, top_k=1), Sampling(seed=1, mirostat=2)],
)
def test_with_a_grammar_only_what_it_allows_is_drawn(sampling: Sampling) -> None:
    for rules, allowed in (('start: "yes" | "no"', ("yes", "no")), ('start: "["', ("[",))):
        text, done = guided(rules, sampling=sampling)
        assert text in allowed
        assert (done.reason, done.tokens) == ("stop", len(text))


def test_a_limit_may_cut_what_a_grammar_demands() -> None:
    text, done = guided('start: "abcdef"', 3)
    assert (text, done.reason) == ("abc", "length")


def test_what_is_generated_up_to_a_stop_string_can_go_on() -> None:
    class Wide(ToyTokenizer):
        def piece(self, token: int) -> bytes:
            return {1: b"x<ca", 2: b"ll>y", 3: b"<call>"}.get(token) or super().piece(token)

    def spell(text: str) -> list[int]:
        return list(text.encode())

    for tokens, expected in (
        ([*b"a<call>"], [*b"a<call>"]),
        ([*b"a", 1, 2], [*b"a", 1, *b"ll>"]),
        ([3], [3]),
        ([*b"<cal", 2], [*b"<cal"]),  # "<calll>y" is none
    ):
        generation = Generation(ToyExecutor(), Wide(), PROMPT, GREEDY, stop=["<call>"])
        pieces = [generation.accept(token) for token in tokens]
        if pieces[-1].done is None:
            assert generation.stop is None
        else:
            assert generation.stop == "<call>"
            assert generation.up_to_stop(spell) == [*PROMPT, *expected]
