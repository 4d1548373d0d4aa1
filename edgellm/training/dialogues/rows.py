"""Dialogues as rows of tokens: what the model reads, and which of it is to be learnt."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import numpy as np
from numpy.typing import NDArray

from edgellm.tokenizer import Tokenizer
from edgellm.training.batch import IGNORED
from edgellm.training.dialogues.conversation import Conversation
from edgellm.training.dialogues.scenes import scene
from edgellm.training.prompt_form import CONTROL

SYSTEM_SHARE = 0.04
SYSTEMS = (
    "You are a helpful assistant.", "You are edgellm.", "You control the devices of this house.",
    "Be brief.", "You are a helpful assistant", "Answer in one short sentence.",
)  # fmt: skip
"""Now and then a system message stands first, and changes nothing."""


def encode(turns: list[tuple[str, str]], tokenizer: Tokenizer, system: str = "") -> list[list[int]]:
    """For each turn its prompt's ids and its answer's ids: [prompt, answer, prompt, …]."""
    parts: list[list[int]] = []
    before = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    for question, answer in turns:
        prompt = f"{before}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        parts.append(tokenizer.encode(prompt, parse_special=True))
        parts.append([*tokenizer.encode(answer), *tokenizer.encode(CONTROL[0], parse_special=True)])
        before = "\n"
    return parts


def rows(
    seed: int, tokenizer: Tokenizer, length: int, held_out: bool = False
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32], list[tuple[str, str]]]]:
    """Endless (tokens, targets, turns): a conversation of as many scenes as fit `length` tokens.

    targets[i] is the token after tokens[i] where that belongs to an answer, else IGNORED.
    """
    rng = Random(f"{seed} {held_out}")
    while True:
        talk = Conversation(rng, held_out)
        system = rng.choice(SYSTEMS) if rng.random() < SYSTEM_SHARE else ""
        kept: list[list[int]] = []
        while True:
            scene(talk)
            parts = encode(talk.turns, tokenizer, system)
            if sum(map(len, parts)) > length + 1:
                break
            kept = parts
        while parts and sum(map(len, parts)) > length + 1:
            parts = parts[:-2]
        kept = max(kept, parts, key=len)
        if not kept:
            continue
        ids = [token for part in kept for token in part]
        wanted = [n % 2 == 1 for n, part in enumerate(kept) for _ in part]
        tokens = np.zeros(length, dtype=np.int32)
        targets = np.full(length, IGNORED, dtype=np.int32)
        tokens[: len(ids) - 1] = ids[:-1]
        targets[: len(ids) - 1] = np.where(wanted[1:], ids[1:], IGNORED)
        yield tokens, targets, talk.turns[: len(kept) // 2]
