"""Training a byte-level BPE vocabulary (Sennrich et al. 2016, arXiv:1508.07909, section 3.2)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

from edgellm.pre_tokenizer import PRE_TOKENIZERS, words
from edgellm.tokenizer import CONTROL, NORMAL, USER_DEFINED, TokenizerData

Pair = tuple[str, str]

_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = sorted(set(range(256)) - set(_VISIBLE))
CHARACTERS = {b: chr(b) for b in _VISIBLE} | {b: chr(0x100 + i) for i, b in enumerate(_HIDDEN)}
"""How byte-level vocabularies spell each byte: printable Latin-1 as it is, the rest from U+0100."""
SPACE = CHARACTERS[0x20]
WITHOUT_SPACE = 0.6
"""The share of pieces that begin without a space."""


def train(
    texts: Iterable[str],
    size: int,
    control: Sequence[str] = (),
    marks: Sequence[str] = (),
    pre: str = "smollm",
    least: int = 2,
) -> TokenizerData:
    """A vocabulary of at most `size` pieces for `texts`, cut into words as `pre` does.

    All 256 bytes are pieces, so every text can be encoded. The commonest pair of neighbours is
    merged until there are enough or no pair occurs `least` times; among equally common pairs the
    first in code point order. Spaces before words take part only after that, in what is left of the
    size: so a word has the same pieces after a space as after a quote, and can be told to be the
    same. `control` tokens come first, the first of them being the end of generation; `marks`,
    tokens wherever they stand, come last.
    """
    bare, spaced = _spelled(texts, pre)
    tokens = [*control, *(CHARACTERS[byte] for byte in range(256))]
    room = size - len(tokens) - len(marks)
    merges = _merges(list(bare.values()), round(room * WITHOUT_SPACE), least)
    first: Counter[str] = Counter()
    for word, count in spaced.items():
        first[bare[word][0][0]] += count
    common = sorted(first.items(), key=lambda item: (-item[1], item[0]))
    merges += [(SPACE, piece) for piece, count in common if count >= least][: room - len(merges)]
    tokens += [left + right for left, right in merges]
    types = [CONTROL] * len(control) + [NORMAL] * (len(tokens) - len(control))
    return TokenizerData(
        model="gpt2",
        pre=pre,
        tokens=(*tokens, *marks),
        types=(*types, *[USER_DEFINED] * len(marks)),
        merges=tuple(f"{left} {right}" for left, right in merges),
        eos=0 if control else None,
    )


def _spelled(
    texts: Iterable[str], pre: str
) -> tuple[dict[str, tuple[list[str], int]], Counter[str]]:
    """The words of texts without a space before them, as bytes, and how often each occurs; and how
    often each with a space."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(words(text, PRE_TOKENIZERS[pre]))
    bare: Counter[str] = Counter()
    spaced: Counter[str] = Counter()
    for word, count in counts.items():
        stripped = word[1:] if word[0] == " " and word[1:] else word
        bare[stripped] += count
        if stripped != word:
            spaced[stripped] += count
    spelled = {
        word: ([CHARACTERS[byte] for byte in word.encode()], count) for word, count in bare.items()
    }
    return spelled, spaced


def _merges(spelled: list[tuple[list[str], int]], most: int, least: int) -> list[Pair]:
    """Merge the parts of (word, count) in place, and return the pairs in the order of merging."""
    counts: Counter[Pair] = Counter()
    homes: dict[Pair, set[int]] = {}
    for index, (parts, count) in enumerate(spelled):
        for pair in itertools.pairwise(parts):
            counts[pair] += count
            homes.setdefault(pair, set()).add(index)
    merges: list[Pair] = []
    made: set[str] = set()
    while len(merges) < most and counts:
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        if counts[best] < least:
            break
        piece = best[0] + best[1]
        if piece not in made:  # two ways to one piece would be one token with two merges
            merges.append(best)
            made.add(piece)
        for index in homes.pop(best):
            parts, count = spelled[index]
            for pair in itertools.pairwise(parts):
                counts[pair] -= count
            parts[:] = _joined(parts, best)
            for pair in itertools.pairwise(parts):
                counts[pair] += count
                homes.setdefault(pair, set()).add(index)
        del counts[best]
    return merges


def _joined(parts: list[str], pair: Pair) -> list[str]:
    joined: list[str] = []
    i = 0
    while i < len(parts):
        if i + 1 < len(parts) and (parts[i], parts[i + 1]) == pair:
            joined.append(parts[i] + parts[i + 1])
            i += 2
        else:
            joined.append(parts[i])
            i += 1
    return joined
