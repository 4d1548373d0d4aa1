"""The vocabulary in a GGUF file's `tokenizer.ggml.*` keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgellm.errors import FormatError
from edgellm.keys import Keys
from edgellm.tokenizer import CONTROL, UNKNOWN, USER_DEFINED, TokenizerData

KEY = "tokenizer.ggml."

NO_TOKEN = (1 << 32) - 1
"""How some converters write "none" in an unsigned key."""


class _Vocabulary(Keys):
    """Keys, and the kinds of value that only a vocabulary has."""

    def optional_flag(self, name: str) -> bool | None:
        return None if self.get(name) is None else self.flag(name, False)

    def strings(self, name: str) -> list[str]:
        value = self.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.fail(name, value, "an array of strings is needed")
        return value

    def array(self, name: str, kinds: str, count: int) -> Sequence[float]:
        """`count` numbers of NumPy's `kinds`; none where the key is absent."""
        value = self.get(name)
        if value is None:
            return ()
        if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds or value.ndim != 1:
            raise self.fail(name, value, "an array of numbers is needed")
        if len(value) != count:
            raise self.fail(f"{name}'s length", len(value), f"{count} are needed")
        if not np.isfinite(value).all():
            raise self.fail(name, "nan or inf", "finite numbers are needed")
        return list(value.tolist())

    def token(self, name: str, count: int, default: int | None = None) -> int | None:
        """An id below `count`, None for none."""
        if default is not None and default >= count:
            default = None
        name = f"{name}_token_id"
        value = self.get(name)
        if value is None:
            return default
        if isinstance(value, int) and value in (-1, NO_TOKEN):
            return None
        return self.integer(name, None, 0, count - 1)


def read(metadata: Mapping[str, object], file: str) -> TokenizerData | None:
    """The vocabulary in `metadata`, None where there is none.

    Raises FormatError for keys of the wrong type, length or range.
    """
    keys = _Vocabulary(file, metadata, KEY)
    model = keys.word("model", "none")
    if model in ("none", "no_vocab"):
        return None
    tokens = keys.strings("tokens")
    count = len(tokens)
    if not count:
        raise FormatError(file, KEY + "tokens", "absent or empty", "a vocabulary has tokens")
    spm, bpe = model == "llama", model == "gpt2"
    scores = keys.array("scores", "fiu", count)
    if spm and not scores:
        raise FormatError(file, KEY + "scores", "absent", "SentencePiece merges by them")
    types = [int(kind) for kind in keys.array("token_type", "iu", count)]
    merges = keys.strings("merges")
    if bpe and not merges:
        raise FormatError(file, KEY + "merges", "absent or empty", "byte-level BPE needs them")
    extra = {keys.token(name, count) for name in ("eot", "eom")}
    return TokenizerData(
        model=model,
        pre=keys.word("pre", ""),
        tokens=tokens,
        scores=() if bpe else scores,
        types=types,
        merges=() if spm else merges,
        bos=keys.token("bos", count, 1 if spm else None),
        eos=keys.token("eos", count, 2 if spm else None),
        unk=keys.token("unknown", count, 0 if spm else None),
        pad=keys.token("padding", count),
        add_bos=keys.optional_flag("add_bos_token"),
        add_eos=keys.optional_flag("add_eos_token"),
        add_space_prefix=keys.optional_flag("add_space_prefix") if spm else None,
        rstrip=_rstrip(metadata, tokens, types),
        extra_eog=frozenset(token for token in extra if token is not None),
        file=file,
    )


def _rstrip(metadata: Mapping[str, object], tokens: list[str], types: list[int]) -> frozenset[int]:
    """Phi-3's special tokens swallow the white space after them; only its name tells."""
    name = str(metadata.get("general.name", "")).lower()
    if "phi-3" not in name and "phi3" not in name:
        return frozenset()
    plain = ("<unk>", "<s>", "<|endoftext|>")
    special = (UNKNOWN, CONTROL, USER_DEFINED)
    return frozenset(
        i for i, kind in enumerate(types) if kind in special and tokens[i] not in plain
    )
