"""The vocabulary in a GGUF file's `tokenizer.ggml.*` keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgellm.errors import FormatError, UnsupportedError
from edgellm.tokenizer import CONTROL, UNKNOWN, USER_DEFINED, TokenizerData

if TYPE_CHECKING:
    import numpy as np

KEY = "tokenizer.ggml."

NO_TOKEN = (1 << 32) - 1
"""How some converters write "none" in an unsigned key."""


class _Keys:
    """Typed access to one file's keys."""

    def __init__(self, metadata: Mapping[str, object], file: str) -> None:
        self.metadata, self.file = metadata, file

    def text(self, key: str, default: str) -> str:
        value = self.metadata.get(key, default)
        if not isinstance(value, str):
            raise FormatError(self.file, key, value, "it must be a string")
        return value

    def flag(self, name: str) -> bool | None:
        value = self.metadata.get(KEY + name)
        if value is not None and not isinstance(value, bool):
            raise FormatError(self.file, KEY + name, value, "it must be a bool")
        return value

    def strings(self, name: str) -> list[str]:
        value = self.metadata.get(KEY + name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise FormatError(self.file, KEY + name, value, "it must be an array of strings")
        return value

    def numbers(self, name: str, kinds: str, count: int) -> Sequence[float]:
        import numpy as np

        value = self.metadata.get(KEY + name)
        if value is None:
            return ()
        if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds or value.ndim != 1:
            raise FormatError(self.file, KEY + name, value, "it must be an array of numbers")
        if len(value) != count:
            raise FormatError(self.file, f"length of {KEY}{name}", len(value), f"not {count}")
        numbers: np.ndarray = value
        if not np.isfinite(numbers).all():
            raise FormatError(self.file, KEY + name, "nan or inf", "it must be finite")
        return list(numbers.tolist())

    def token(self, name: str, count: int, default: int | None = None) -> int | None:
        value = self.metadata.get(f"{KEY}{name}_token_id")
        if value is None:
            return default if default is not None and default < count else None
        if not isinstance(value, int) or isinstance(value, bool):
            raise FormatError(self.file, f"{KEY}{name}_token_id", value, "it must be an integer")
        if value in (-1, NO_TOKEN):
            return None
        if not 0 <= value < count:
            allowed = f"the vocabulary has {count} tokens"
            raise FormatError(self.file, f"{KEY}{name}_token_id", value, allowed)
        return value


def read(metadata: Mapping[str, object], file: str) -> TokenizerData | None:
    """The vocabulary in `metadata`, None where there is none.

    Raises FormatError for keys of the wrong type, length or range.
    """
    keys = _Keys(metadata, file)
    model = keys.text(KEY + "model", "none")
    if model in ("none", "no_vocab"):
        return None
    if model not in ("llama", "gpt2"):
        allowed = "'llama' (SentencePiece) and 'gpt2' (byte-level BPE) are supported"
        raise UnsupportedError(file, KEY + "model", model, allowed)
    tokens = keys.strings("tokens")
    count = len(tokens)
    if not count:
        raise FormatError(file, KEY + "tokens", "absent or empty", "a vocabulary has tokens")
    spm = model == "llama"
    scores = keys.numbers("scores", "fiu", count)
    if spm and not scores:
        raise FormatError(file, KEY + "scores", "absent", "SentencePiece merges by them")
    types = [int(kind) for kind in keys.numbers("token_type", "iu", count)]
    merges = keys.strings("merges")
    if not spm and not merges:
        raise FormatError(file, KEY + "merges", "absent or empty", "byte-level BPE needs them")
    extra = {keys.token(name, count) for name in ("eot", "eom")}
    return TokenizerData(
        model=model,
        pre=keys.text(KEY + "pre", ""),
        tokens=tokens,
        scores=scores if spm else (),
        types=types,
        merges=() if spm else merges,
        bos=keys.token("bos", count, 1 if spm else None),
        eos=keys.token("eos", count, 2 if spm else None),
        unk=keys.token("unknown", count, 0 if spm else None),
        pad=keys.token("padding", count),
        add_bos=keys.flag("add_bos_token"),
        add_eos=keys.flag("add_eos_token"),
        add_space_prefix=keys.flag("add_space_prefix") if spm else None,
        rstrip=_rstrip(keys, tokens, types),
        extra_eog=frozenset(token for token in extra if token is not None),
        file=file,
    )


def _rstrip(keys: _Keys, tokens: list[str], types: list[int]) -> frozenset[int]:
    """Phi-3's special tokens swallow the white space after them; only its name tells."""
    name = keys.text("general.name", "").lower()
    if "phi-3" not in name and "phi3" not in name:
        return frozenset()
    plain = ("<unk>", "<s>", "<|endoftext|>")
    special = (UNKNOWN, CONTROL, USER_DEFINED)
    return frozenset(
        i for i, kind in enumerate(types) if kind in special and tokens[i] not in plain
    )
