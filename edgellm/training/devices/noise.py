"""How people really type: slips of the finger, odd case, missing or doubled punctuation."""

from __future__ import annotations

from random import Random

_NEIGHBOURS = {
    "a": "sqz", "b": "vn", "c": "xv", "d": "sf", "e": "wr", "f": "dg", "g": "fh", "h": "gj",
    "i": "uo", "j": "hk", "k": "jl", "l": "k", "m": "n", "n": "bm", "o": "ip", "p": "o", "q": "wa",
    "r": "et", "s": "ad", "t": "ry", "u": "yi", "v": "cb", "w": "qe", "x": "zc", "y": "tu",
    "z": "xa",
}  # fmt: skip


def mistype(text: str, rng: Random) -> str:
    """`text` with one slip: a letter dropped, doubled, swapped with the next or hit beside."""
    places = [i for i, letter in enumerate(text) if letter.lower() in _NEIGHBOURS]
    if len(places) < 4:
        return text
    i = rng.choice(places[1:])
    slip = rng.random()
    if slip < 0.35:
        return text[:i] + text[i + 1 :]
    if slip < 0.5:
        return text[: i + 1] + text[i:]
    if slip < 0.8 and i + 1 < len(text) and text[i + 1].isalpha():
        return text[:i] + text[i + 1] + text[i] + text[i + 2 :]
    return text[:i] + rng.choice(_NEIGHBOURS[text[i].lower()]) + text[i + 1 :]


def mistype_around(template: str, rng: Random) -> str:
    """One slip in the literal words of a template; its `{fields}` stay as they are."""
    parts = template.split(" ")
    literal = [i for i, part in enumerate(parts) if "{" not in part and len(part) > 3]
    if literal:
        i = rng.choice(literal)
        parts[i] = mistype(parts[i], rng)
    return " ".join(parts)


def stress(text: str, rng: Random) -> str:
    """`text` with one of its words in capitals."""
    parts = text.split(" ")
    i = rng.randrange(len(parts))
    parts[i] = parts[i].upper()
    return " ".join(parts)


def finish(text: str, rng: Random, question: bool = False) -> str:
    """Case and final punctuation as people use them, or don't."""
    style = rng.random()
    if style < 0.42:
        text = text[:1].upper() + text[1:]
    elif style < 0.48:
        text = text.upper()
    elif style < 0.50:
        text = text.title()
    elif style < 0.54:
        text = stress(text, rng)
    end = rng.random()
    if question:
        return text + ("?" if end < 0.7 else "" if end < 0.95 else "??")
    if end < 0.52:
        return text
    return text + ("." if end < 0.85 else "!" if end < 0.95 else "!!" if end < 0.97 else "...")
