"""Tokenizers: the contract, the vocabulary as model files carry it, and incremental decoding."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from edgellm.errors import FormatError, UnsupportedError, UsageError

if TYPE_CHECKING:
    import os

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Kinds of tokens, in GGUF's (and SentencePiece's) numbering."""


@dataclass(frozen=True)
class TokenizerData:
    """A vocabulary as found in a model file, whatever its format; checked before it gets here."""

    model: str
    """"llama" (SentencePiece's BPE: characters, byte fallback, ▁ for spaces) or "gpt2"
    (byte-level BPE)."""
    pre: str = ""
    """The pre-tokenizer's name in GGUF's terms ("llama-bpe", "qwen2", …); "" where absent."""
    splits: tuple[str, ...] = ()
    """Pre-tokenizing steps by name (`edgellm.pre_tokenizer.STEPS`), where the file lists them;
    empty: those that `pre` stands for."""
    tokens: Sequence[str] = ()
    """Texts by id, as the file spells them; of equal ones the first is encoded."""
    scores: Sequence[float] = ()
    """SentencePiece's priorities, highest merged first; empty where `merges` decide."""
    types: Sequence[int] = ()
    """1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte (GGUF's numbering)."""
    merges: Sequence[str] = ()
    """"left right", first merged first."""
    bos: int | None = None
    eos: int | None = None
    unk: int | None = None
    pad: int | None = None
    add_bos: bool | None = None
    add_eos: bool | None = None
    add_space_prefix: bool | None = None
    prefix_once: bool = False
    """The space prefix goes before the text's first character only, not after special tokens."""
    prefix_lacking: bool = False
    """The space prefix goes only before text that doesn't begin with a space."""
    ignore_merges: bool | None = None
    """A word that is a token stays whole, whatever the merges say; None: as `pre` has it."""
    normal_form: Literal["", "NFC", "NFD", "NFKC", "NFKD"] = ""
    """Unicode normalisation of what lies between special tokens; "": none."""
    lstrip: frozenset[int] = field(default_factory=frozenset)
    """Special tokens that swallow the white space before them."""
    rstrip: frozenset[int] = field(default_factory=frozenset)
    """Special tokens that swallow the white space after them."""
    extra_eog: frozenset[int] = field(default_factory=frozenset)
    """Further end-of-generation ids that the file names (eot, eom, generation_config's list)."""
    file: str = "tokenizer"
    """Where it comes from, for error messages."""

    @functools.cached_property
    def marked(self) -> list[tuple[int, int]]:
        """Id and kind of each token that isn't a normal one, by id: few of a long vocabulary."""
        import numpy as np

        kinds = np.asarray(self.types)
        ids = np.flatnonzero(kinds != NORMAL)
        return list(zip(ids.tolist(), kinds[ids].tolist(), strict=True))


class StreamDecoder(Protocol):
    """Turns tokens into text as they come, never splitting a UTF-8 character."""

    def push(self, token: int) -> str:
        """Text that became complete with this token (may be empty)."""

    def flush(self) -> str:
        """What is left at the end; incomplete bytes become U+FFFD."""


class Tokenizer(Protocol):
    size: int
    """Number of ids, 0 … size-1."""
    bos: int | None
    eos: int | None
    eog: frozenset[int]
    """Every id that ends a generation: eos, end-of-turn, end-of-text and their kin."""

    def encode(
        self, text: str, add_special: bool = False, parse_special: bool = False
    ) -> list[int]:
        """Token ids of `text`.

        `add_special` adds bos/eos as the model wants; `parse_special` lets control tokens written
        out in the text (`<|im_end|>`) become their ids. User-defined tokens always do.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`: the concatenated pieces, control tokens as they are written.

        Invalid UTF-8 becomes U+FFFD; ids that the vocabulary doesn't have stand for nothing.
        """

    def piece(self, token: int) -> bytes:
        """The bytes that one token stands for; b"" for control tokens and ids beyond `size`."""

    def stream(self) -> StreamDecoder:
        """A fresh incremental decoder of pieces."""


END_OF_GENERATION = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
)
"""Tokens that end a generation in whichever vocabulary they occur."""


def make(data: TokenizerData) -> Tokenizer:
    """The tokenizer that a plugin offers for a vocabulary.

    Raises UnsupportedError where none does.
    """
    from edgellm import plugins

    tokenizer: Tokenizer | None = plugins.ask("tokenizer", data=data)
    if tokenizer is None:
        allowed = f"no plugin takes it; there are: {plugins.offered('tokenizer')}"
        raise UnsupportedError(data.file, "tokenizer model", data.model, allowed)
    return tokenizer


def prompt_ids(tokenizer: Tokenizer, text: str, parse_special: bool = True) -> list[int]:
    """Token ids of a prompt, beginning with bos if the model wants it, but never with two: chat
    templates often write it themselves."""
    ids = tokenizer.encode(text, parse_special=parse_special)
    bos = tokenizer.encode("", add_special=True)[:1]
    return bos + ids if bos == [tokenizer.bos] and ids[:1] != bos else ids


def tokenizer_data_from_gguf(
    metadata: Mapping[str, object], file: str | os.PathLike[str]
) -> TokenizerData | None:
    """The vocabulary in a GGUF file's keys, None where it has none.

    Raises FormatError for keys of the wrong type, length or range.
    """
    from edgellm.gguf import vocabulary

    return vocabulary.read(metadata, str(file))


def tokenizer_data_from_folder(folder: str | os.PathLike[str]) -> TokenizerData | None:
    """The vocabulary in a Hugging Face folder, None where it has no tokenizer files.

    Raises FormatError for a broken file, UnsupportedError for a component that isn't known.
    """
    from edgellm.huggingface import vocabulary

    return vocabulary.read(Path(folder))


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer of a GGUF file, of a Hugging Face folder or of a bundle.

    Raises FormatError for a broken file, UnsupportedError for one that edgellm can't run,
    UsageError where there is no such file.
    """
    from edgellm import bundle, gguf

    where = Path(path)
    if where.is_dir():
        data = tokenizer_data_from_folder(where)
    elif bundle.is_bundle(where):
        data = bundle.open(where, inspect=True).tokenizer
    elif where.is_file():
        data = tokenizer_data_from_gguf(gguf.read(where).metadata, where)
    else:
        raise UsageError(f"{where}: no such file or folder")
    if data is None:
        raise FormatError(where, "tokenizer", None, "the file holds no vocabulary")
    return make(data)
