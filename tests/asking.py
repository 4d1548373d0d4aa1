"""What tests ask a scheduler over the toy, and what they would hear from a toy of their own."""

from __future__ import annotations

from typing import Any

from toy_executor import BOS, ToyExecutor, ToyTokenizer

from edgellm.answer import Answer, Request
from edgellm.channel import Done, Text
from edgellm.generation import SingleSlot, generate
from edgellm.sampling import Sampling

GREEDY = Sampling(temperature=0)


def ask(text: str, max_tokens: int = 8, **options: Any) -> Request:
    options = {"sampling": GREEDY, **options}
    return Request([BOS, *text.encode()], max_tokens=max_tokens, **options)


async def collect(answer: Answer) -> tuple[str, Done]:
    *texts, done = [event async for event in answer]
    assert isinstance(done, Done)
    return "".join(event.text for event in texts if isinstance(event, Text)), done


def alone(request: Request, **executor: int) -> str:
    """What the request gets from an executor of its own, without a scheduler."""
    pieces = generate(
        SingleSlot(ToyExecutor(**executor)),
        ToyTokenizer(),
        request.tokens,
        request.sampling,
        request.max_tokens,
        request.stop,
        keep=request.keep,
        strengths=request.strengths,
    )
    return "".join(piece.text for piece in pieces)
