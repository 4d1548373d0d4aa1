"""What a command is about: a noun phrase as the user says it and as the answer repeats it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from edgellm.training.dialogues import words
from edgellm.training.dialogues.noise import mistype

KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "switched": (words.SWITCHED, words.UNSEEN_SWITCHED),
    "opened": (words.OPENED, words.UNSEEN_OPENED),
    "started": (words.STARTED, words.UNSEEN_STARTED),
    "locked": (words.LOCKED, words.UNSEEN_LOCKED),
    "plants": (words.PLANTS, words.UNSEEN_PLANTS),
    "settable": (tuple(words.SETTABLE), tuple(words.UNSEEN_SETTABLE)),
}
"""Nouns by what can be done with them: those for training, those held out."""

_SINGULAR_S = frozenset(("gas", "bus", "compass", "canvas", "iris"))


@dataclass(frozen=True)
class Thing:
    user: str
    """As the user types it: "my kitchn lamp"."""
    answer: str
    """As the answer repeats it: "your kitchen lamp"."""
    plural: bool
    noun: str
    """The bare noun, "lamp"."""

    def state(self, state: str) -> str:
        """ "the lamp is on" of the state "on"; "stopped" takes "has"."""
        if state == "stopped":
            verb = "have" if self.plural else "has"
        else:
            verb = "are" if self.plural else "is"
        return f"{self.answer} {verb} {state}"


def is_plural(noun: str) -> bool:
    last = noun.split()[-1]
    return last.endswith("s") and not last.endswith("ss") and last not in _SINGULAR_S


def place(rng: Random, held_out: bool) -> tuple[str, bool]:
    """A place, and whether it is a known one."""
    if held_out and rng.random() < 0.5:
        return rng.choice(words.UNSEEN_PLACES), False
    if rng.random() < 0.15:
        return words.invented(rng), False
    return rng.choice(words.PLACES), True


def noun(rng: Random, kind: str, held_out: bool) -> tuple[str, bool]:
    """A noun that `kind` of action fits, and whether it is a known one (which may be mistyped)."""
    seen, unseen = KINDS[kind]
    if held_out:
        return rng.choice(unseen if rng.random() < 0.5 else seen), False
    if rng.random() < 0.55:
        return rng.choice(seen), True
    base = rng.choice(words.NOUNS) if rng.random() < 0.4 else words.invented(rng)
    if rng.random() < 0.2:
        first = words.invented(rng) if rng.random() < 0.5 else rng.choice(words.NOUNS)
        base = f"{first} {base}"
    if rng.random() < 0.15:
        base += "s" if base[-1] not in "shxy" else ""
    return base, False


def thing(rng: Random, kind: str, held_out: bool = False) -> Thing:
    """A device or plant, by chance with a place, an adjective, a number or a typing mistake."""
    bare, known = noun(rng, kind, held_out)
    name, tail, spoken_tail = bare, "", ""
    plural = is_plural(bare)
    form = rng.random()
    if form < 0.18:
        where, familiar = place(rng, held_out)
        name, known = f"{where} {bare}", known and familiar
    elif form < 0.40:
        where, _ = place(rng, held_out)
        if where in ("upstairs", "downstairs"):
            tail = spoken_tail = f" {where}"
        else:
            preposition = rng.choice(("in", "in", "in", "in", "by", "of", "near"))
            tail = f" {preposition} the {where}"
            spoken_tail = tail if rng.random() < 0.9 else f" {preposition} {where}"
    elif form < 0.47:
        name = f"{rng.choice(words.ADJECTIVES)} {bare}"
    elif form < 0.52 and not plural:
        number = rng.choice(("", "", "number ", "no ")) + str(rng.randint(1, rng.choice((9, 40))))
        tail = spoken_tail = f" {number}"
    spoken = name
    if known and rng.random() < 0.08:
        spoken = mistype(spoken, rng)
    numbered = form >= 0.47 and bool(tail)
    owner = rng.random()
    if owner < 0.76 and not numbered:
        user, answer = f"the {spoken}", f"the {name}"
    elif owner < 0.84 and not numbered:
        user, answer = f"{rng.choice(('my', 'my', 'our'))} {spoken}", f"your {name}"
    elif numbered:
        user, answer = spoken, name
    else:
        user, answer = spoken, f"the {name}"
    return Thing(user + spoken_tail, answer + tail, plural, bare)
