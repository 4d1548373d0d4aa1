"""What all tokenizers over a vocabulary share: special tokens, pieces, decoding."""

from __future__ import annotations

import codecs
import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

from edgellm.errors import FormatError
from edgellm.tokenizer import (
    BYTE,
    CONTROL,
    END_OF_GENERATION,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    TokenizerData,
)

CONTROL_LOOKING = (
    *END_OF_GENERATION,
    *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<PRE>", "▁<PRE>"),
    *("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<SUF>", "▁<SUF>"),
    *("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<MID>", "▁<MID>"),
    *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>"),
    *("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>"),
)
"""Tokens that are control tokens in whichever vocabulary they occur: many files mark them wrongly,
and text from a user must not be able to spell them."""

SPACE = " \t\n\v\f\r"
"""White space that a special token may swallow."""

CACHED_WORDS = 1 << 16
CACHED_LENGTH = 64
"""Longer words are too rare to remember."""


class Vocabulary:
    """A vocabulary's ids and kinds, and what every tokenizer over one does with them.

    A kind of tokenizer adds `words`, `word_ids` and `normal_bytes`.
    """

    def __init__(self, data: TokenizerData, add_bos: bool, add_eos: bool) -> None:
        self.data = data
        self.size = len(data.tokens)
        for token, kind in data.marked:
            if kind == BYTE and not re.fullmatch("<0x[0-9A-Fa-f]{2}>", data.tokens[token]):
                allowed = "it must look like <0x0A>"
                raise FormatError(data.file, f"byte token {token}", data.tokens[token], allowed)
        self.bos, self.eos = data.bos, data.eos
        ids = range(self.size - 1, -1, -1)
        self.ids: dict[str, int] = dict(zip(reversed(data.tokens), ids, strict=True))
        self.eog = data.extra_eog | {self.ids[t] for t in END_OF_GENERATION if t in self.ids}
        if data.eos is not None:
            self.eog |= {data.eos}
        self._looks_control = {self.ids[t] for t in CONTROL_LOOKING if t in self.ids}
        self._prefix = [self.bos] if add_bos and self.bos is not None else []
        self._suffix = [self.eos] if add_eos and self.eos is not None else []
        self._remembered: dict[str, list[int]] = {}

    def words(self, text: str, first: bool, after_special: bool) -> Iterable[str]:
        """Text without special tokens, cut where no token reaches across.

        `first` where it begins the whole text, `after_special` there and after special tokens.
        """
        raise NotImplementedError

    def word_ids(self, word: str) -> list[int]:
        """The ids of one of these words."""
        raise NotImplementedError

    def normal_bytes(self, text: str) -> bytes:
        """The bytes that a normal token's text stands for."""
        raise NotImplementedError

    def kind(self, token: int) -> int:
        """The kind of a token in GGUF's numbering."""
        if token in self._looks_control:
            return CONTROL
        return self.data.types[token] if self.data.types else NORMAL

    def encode(
        self, text: str, add_special: bool = False, parse_special: bool = False
    ) -> list[int]:
        ids = list(self._prefix) if add_special else []
        after_special = True
        for number, fragment in enumerate(self._fragments(_whole(text), parse_special)):
            if isinstance(fragment, str):
                ids += self._encode_text(fragment, number == 0, after_special)
            else:
                ids.append(fragment)
            after_special = not isinstance(fragment, str)
        return ids + self._suffix if add_special else ids

    def _encode_text(self, text: str, first: bool, after_special: bool) -> list[int]:
        if self.data.normal_form:
            text = _normalised(self.data.normal_form, text)
        ids: list[int] = []
        remembered = self._remembered
        for word in self.words(text, first, after_special):
            known = remembered.get(word)
            if known is None:
                known = self.word_ids(word)
                if len(word) <= CACHED_LENGTH:
                    if len(remembered) >= CACHED_WORDS:
                        remembered.clear()
                    remembered[word] = known
            ids += known
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(self._written(token) for token in ids).decode(errors="replace")

    def piece(self, token: int) -> bytes:
        if not 0 <= token < self.size or self.kind(token) in (CONTROL, UNKNOWN):
            return b""
        return self._written(token)

    def stream(self) -> Stream:
        return Stream(self)

    def _written(self, token: int) -> bytes:
        """The bytes that a token stands for, control tokens as their own text."""
        if not 0 <= token < self.size:
            return b""
        text, kind = self.data.tokens[token], self.kind(token)
        if kind == UNUSED:
            return b""
        if kind == BYTE:
            return bytes([int(text[3:5], 16)])
        if kind in (CONTROL, UNKNOWN, USER_DEFINED):
            return text.encode(errors="surrogateescape")
        return self.normal_bytes(text)

    @functools.cached_property
    def _specials(self) -> list[tuple[str, int, bool]]:
        """Text, id and whether it needs parse_special, of each special token, longest first."""
        kinds = (UNKNOWN, CONTROL, USER_DEFINED)
        marked = [i for i, kind in self.data.marked if kind in kinds]
        found = [
            (self.data.tokens[i], i, self.kind(i) != USER_DEFINED)
            for i in sorted(self._looks_control.union(marked))
            if self.data.tokens[i]
        ]
        found.sort(key=lambda special: -len(special[0].encode(errors="surrogateescape")))
        return found

    def _fragments(self, text: str, parse_special: bool) -> list[str | int]:
        """The text cut at its special tokens, which become their ids; no empty strings."""
        fragments: list[str | int] = [text] if text else []
        for special, token, control in self._specials:
            if (control and not parse_special) or special not in text:
                continue
            cut: list[str | int] = []
            for fragment in fragments:
                if isinstance(fragment, str) and special in fragment:
                    cut += self._cut(fragment, special, token)
                else:
                    cut.append(fragment)
            fragments = cut
        return fragments

    def _cut(self, text: str, special: str, token: int) -> list[str | int]:
        cut: list[str | int] = []
        parts = text.split(special)
        for number, part in enumerate(parts):
            if number:
                cut.append(token)
                if token in self.data.rstrip:
                    part = part.lstrip(SPACE)
            if number < len(parts) - 1 and token in self.data.lstrip:
                part = part.rstrip(SPACE)
            if part:
                cut.append(part)
        return cut


class Stream:
    """Decodes pieces as they come; characters appear when their last byte does."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._piece = vocabulary.piece
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(self._piece(token))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


def _whole(text: str) -> str:
    """The text without lone surrogates, which no encoding can carry."""
    if re.search("[\ud800-\udfff]", text) is None:
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _normalised(form: Literal["NFC", "NFD", "NFKC", "NFKD"], text: str) -> str:
    """The text in a Unicode normal form, in linear time.

    Python sorts a run of combining marks in quadratic time. Longer runs than any language has are
    cut, as in Unicode's Stream-Safe Text Format (UAX #15, section 13).
    """
    import regex

    if regex.search(r"\p{M}{31}", text) is None:
        return unicodedata.normalize(form, text)
    parts = regex.findall(r"\P{M}*+\p{M}{0,30}+", text)
    return "".join(unicodedata.normalize(form, part) for part in parts)
