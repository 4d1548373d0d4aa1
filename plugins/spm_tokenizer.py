"""SentencePiece's BPE (Kudo and Richardson 2018, arXiv:1808.06226): LLaMA, Gemma, Phi-3."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping

from edgellm.hookspecs import hookimpl
from edgellm.merges import merge
from edgellm.tokenizer import BYTE, CONTROL, UNKNOWN, Tokenizer, TokenizerData
from edgellm.vocabulary import Vocabulary

SPACE = "▁"
"""How pieces spell a space: U+2581."""


class SPMTokenizer(Vocabulary):
    """A SentencePiece BPE tokenizer; see `edgellm.tokenizer.Tokenizer` for the contract."""

    def __init__(self, data: TokenizerData) -> None:
        super().__init__(data, data.add_bos is not False, bool(data.add_eos))
        self.space_prefix = data.add_space_prefix is not False

    @functools.cached_property
    def _ranks(self) -> tuple[Mapping[str, int], str]:
        """What `merge` needs: ranks, and how the parts of a pair are joined in them."""
        data = self.data
        if data.merges:
            count = len(data.merges)
            return dict(zip(reversed(data.merges), range(count - 1, -1, -1), strict=True)), " "
        order = {score: rank for rank, score in enumerate(sorted(set(data.scores), reverse=True))}
        ranks = {text: order[score] for text, score in zip(data.tokens, data.scores, strict=True)}
        for token in range(self.size):
            if self.kind(token) in (CONTROL, UNKNOWN, BYTE):
                ranks.pop(data.tokens[token], None)  # several tokens may have one text
        return ranks, ""

    @functools.cached_property
    def _words(self) -> re.Pattern[str]:
        """Cuts text before a space wherever no token reaches across, so that words can be merged
        one by one: after any character that no token has before a space."""
        before = set()
        for text in self.data.tokens:
            at = text.find(SPACE, 1)
            while at > 0:
                before.add(text[at - 1])
                at = text.find(SPACE, at + 1)
        joining = re.escape("".join(sorted(before - {SPACE})))
        run = f"[{joining}]{SPACE}*+|[^{joining}{SPACE}]" if joining else f"[^{SPACE}]"
        return re.compile(f"{SPACE}*+(?:{run})++|{SPACE}++")

    @functools.cached_property
    def _byte_ids(self) -> list[int | None]:
        return [self.ids.get(f"<0x{byte:02X}>", self.data.unk) for byte in range(256)]

    def words(self, text: str, first: bool, after_special: bool) -> Iterable[str]:
        text = text.replace(" ", SPACE)
        begins = first if self.data.prefix_once else after_special
        lacks = not (self.data.prefix_lacking and text.startswith(SPACE))
        if self.space_prefix and begins and lacks:
            text = SPACE + text
        return (match.group() for match in self._words.finditer(text))

    def word_ids(self, word: str) -> list[int]:
        ids: list[int] = []
        for part in merge(list(word), *self._ranks):
            if part in self.ids:
                ids.append(self.ids[part])
            else:
                ids += [i for i in map(self._byte_ids.__getitem__, part.encode()) if i is not None]
        return ids

    def normal_bytes(self, text: str) -> bytes:
        return text.replace(SPACE, " ").encode(errors="surrogateescape")


@hookimpl
def edgellm_tokenizer(data: TokenizerData) -> Tokenizer | None:
    return SPMTokenizer(data) if data.model == "llama" else None
