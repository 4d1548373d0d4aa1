"""Byte-level BPE (Radford et al. 2019, section 2.2): GPT-2 and everything that followed it."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from edgellm.errors import UnsupportedError
from edgellm.hookspecs import hookimpl
from edgellm.merges import merge
from edgellm.pre_tokenizer import PRE_TOKENIZERS, words
from edgellm.tokenizer import Tokenizer, TokenizerData
from edgellm.vocabulary import Vocabulary

_LLAMA_3 = {"llama-bpe", "llama3", "llama-v3", "lfm2", "falcon3", "falcon-h1", "pixtral"}
IGNORE_MERGES = {*_LLAMA_3, "midm-2.0", "tekken"}
"""Pre-tokenizers whose words stay whole where they are tokens."""
ADD_BOS = IGNORE_MERGES
"""Pre-tokenizers whose texts begin with bos unless the file says otherwise."""


def _byte_characters() -> dict[int, str]:
    """GPT-2's visible character for each byte: printable Latin-1 as it is, the rest from U+0100."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    shifted = {byte: chr(0x100 + i) for i, byte in enumerate(hidden)}
    return {byte: shifted.get(byte, chr(byte)) for byte in range(256)}


CHARACTERS = _byte_characters()
BYTES = {ord(character): byte for byte, character in CHARACTERS.items()}


class BPETokenizer(Vocabulary):
    """A byte-level BPE tokenizer; see `edgellm.tokenizer.Tokenizer` for the contract."""

    def __init__(self, data: TokenizerData) -> None:
        pre = data.pre or "default"
        if not data.splits and pre not in PRE_TOKENIZERS:
            allowed = f"the pre-tokenizers are {', '.join(sorted(PRE_TOKENIZERS))}"
            raise UnsupportedError(data.file, "tokenizer.ggml.pre", pre, allowed)
        add_bos = pre in ADD_BOS if data.add_bos is None else data.add_bos
        super().__init__(data, add_bos, bool(data.add_eos))
        self.steps = data.splits or PRE_TOKENIZERS[pre]
        self.whole_words = pre in IGNORE_MERGES
        if data.ignore_merges is not None:
            self.whole_words = data.ignore_merges

    @functools.cached_property
    def ranks(self) -> dict[str, int]:
        merges = self.data.merges
        return dict(zip(reversed(merges), range(len(merges) - 1, -1, -1), strict=True))

    def words(self, text: str, first: bool, after_special: bool) -> Iterable[str]:
        if self.data.add_space_prefix and not text.startswith(" "):
            text = " " + text
        return words(text, self.steps)

    def word_ids(self, word: str) -> list[int]:
        spelled = word.encode().decode("latin-1").translate(CHARACTERS)
        if self.whole_words and spelled in self.ids:
            return [self.ids[spelled]]
        ids: list[int] = []
        for part in merge(list(spelled), self.ranks, " "):
            if part in self.ids:
                ids.append(self.ids[part])
            else:
                ids += self._bytes(part)
        return ids

    def _bytes(self, part: str) -> list[int]:
        """Ids of a part that isn't a token: of its bytes, or unk for those that aren't either."""
        unknown = [] if self.data.unk is None else [self.data.unk]
        return [i for c in part for i in ([self.ids[c]] if c in self.ids else unknown)]

    def normal_bytes(self, text: str) -> bytes:
        if all(ord(character) in BYTES for character in text):
            return bytes(BYTES[ord(character)] for character in text)
        return text.encode(errors="surrogateescape")


@hookimpl
def edgellm_tokenizer(data: TokenizerData) -> Tokenizer | None:
    return BPETokenizer(data) if data.model == "gpt2" else None
