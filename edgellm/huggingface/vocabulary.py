"""The vocabulary in a Hugging Face folder, from whichever tokenizer files it holds.

tokenizer.json wins over tokenizer.model, that over vocab.json with merges.txt; the other files
(tokenizer_config.json, special_tokens_map.json, added_tokens.json, config.json and
generation_config.json) say which tokens are special.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgellm import json_file
from edgellm.errors import FormatError, UnsupportedError, UsageError
from edgellm.huggingface import sentencepiece, tokenizer_json
from edgellm.tokenizer import CONTROL, NORMAL, UNUSED, USER_DEFINED, TokenizerData

SMALL_LIMIT = 16 << 20
"""Bytes of the files beside the vocabulary."""
VOCABULARY_LIMIT = 64 << 20
MAX_END_IDS = 64
ADDED_SCORE = -1000.0
"""Below every score, so that added tokens are never merged into."""

PRE_BY_CLASS = {"GPT2Tokenizer": "gpt-2", "Qwen2Tokenizer": "qwen2"}
"""What vocab.json and merges.txt are cut by, which only the tokenizer's class tells."""


def read(folder: Path) -> TokenizerData | None:
    """The vocabulary in `folder`, None where it has no tokenizer files.

    Raises FormatError for a broken file, UnsupportedError for a component that isn't known.
    """
    config = _Config(folder)
    if (folder / "tokenizer.json").is_file():
        data = tokenizer_json.read(folder / "tokenizer.json")
    elif (folder / "tokenizer.model").is_file():
        data = _from_sentencepiece(folder / "tokenizer.model", config)
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        data = _from_merges(folder, config)
    else:
        return None
    return config.complete(data)


class _Config:
    """What the folder's small files say of special tokens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer = self.optional("tokenizer_config.json")
        self.special = self.optional("special_tokens_map.json")
        self.added = self.optional("added_tokens.json")
        self.model = self.optional("config.json")
        self.generation = self.optional("generation_config.json")

    def optional(self, name: str) -> dict[str, object]:
        path = self.folder / name
        return json_file.read(path, SMALL_LIMIT) if path.is_file() else {}

    def complete(self, data: TokenizerData) -> TokenizerData:
        """`data` with the special tokens and flags of these files, which win over its own."""
        ids = {text: i for i, text in enumerate(data.tokens)}
        count = len(data.tokens)
        ends = [
            *self.end_ids("generation_config.json", self.generation),
            *self.end_ids("config.json", self.model),
        ]
        found: dict[str, int | None] = {}
        for name in ("bos", "eos", "unk", "pad"):
            named, known = self.named(name, ids), getattr(data, name)
            found[name] = known if named is None else named
        if found["eos"] is None:
            found["eos"] = next((i for i in ends if i < count), None)
        if found["bos"] is None:
            bos = self.model.get("bos_token_id")
            inside = isinstance(bos, int) and not isinstance(bos, bool) and 0 <= bos < count
            found["bos"] = bos if inside and isinstance(bos, int) else None
        return dataclasses.replace(
            data,
            bos=found["bos"],
            eos=found["eos"],
            unk=found["unk"],
            pad=found["pad"],
            add_bos=self.flag("add_bos_token", data.add_bos),
            add_eos=self.flag("add_eos_token", data.add_eos),
            extra_eog=data.extra_eog | frozenset(ends),
        )

    def named(self, name: str, ids: Mapping[str, int]) -> int | None:
        """Id of the token that the files call `name`."""
        for file, settings in (
            ("tokenizer_config.json", self.tokenizer),
            ("special_tokens_map.json", self.special),
        ):
            value = settings.get(f"{name}_token")
            if isinstance(value, dict):
                value = value.get("content")
            if value is None:
                continue
            if not isinstance(value, str):
                where = self.folder / file
                raise FormatError(where, f"{name}_token", value, "it must be a token's text")
            if value in ids:
                return ids[value]
        return None

    def flag(self, key: str, default: bool | None) -> bool | None:
        value = self.tokenizer.get(key)
        if value is not None and not isinstance(value, bool):
            raise FormatError(
                self.folder / "tokenizer_config.json", key, value, "it must be true or false"
            )
        return default if value is None else value

    def end_ids(self, file: str, settings: Mapping[str, object]) -> list[int]:
        value = settings.get("eos_token_id")
        listed = value if isinstance(value, list) else [] if value is None else [value]
        where = self.folder / file
        if len(listed) > MAX_END_IDS:
            raise FormatError(
                where, "length of eos_token_id", len(listed), f"at most {MAX_END_IDS}"
            )
        ids: list[int] = []
        for i in listed:
            if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < 1 << 31:
                raise FormatError(where, "eos_token_id", i, "it must be an id")
            ids.append(i)
        return ids

    def added_tokens(self) -> Iterator[tokenizer_json.AddedToken]:
        """The tokens added to the vocabulary file, from either of the files that list them."""
        where = self.folder / "added_tokens.json"
        for content, i in self.added.items():
            yield tokenizer_json.added_token({"id": i, "content": content}, where)
        where = self.folder / "tokenizer_config.json"
        listed = self.tokenizer.get("added_tokens_decoder", {})
        if not isinstance(listed, dict):
            raise FormatError(where, "added_tokens_decoder", listed, "it must be an object")
        for i, token in listed.items():
            if not isinstance(token, dict) or not re.fullmatch("[0-9]{1,9}", i):
                raise FormatError(where, f"added_tokens_decoder[{i}]", token, "an id's settings")
            yield tokenizer_json.added_token({**token, "id": int(i)}, where)


def _from_sentencepiece(path: Path, config: _Config) -> TokenizerData:
    model = sentencepiece.read(path)
    texts = dict(enumerate(model.pieces))
    types = dict(enumerate(model.types))
    for i, kind in types.items():
        if kind == USER_DEFINED:
            texts[i] = texts[i].replace("▁", " ")
    added = {token.id: token for token in config.added_tokens()}
    texts.update((token.id, token.text("llama")) for token in added.values())
    types.update((token.id, token.kind) for token in added.values())
    tokens = tokenizer_json.by_id(texts, path)
    return TokenizerData(
        model="llama",
        pre="default",
        tokens=tokens,
        scores=[*model.scores, *[ADDED_SCORE] * (len(tokens) - len(model.scores))],
        types=[types.get(i, UNUSED) for i in range(len(tokens))],
        bos=model.special.get("bos"),
        eos=model.special.get("eos"),
        unk=model.special.get("unk"),
        pad=model.special.get("pad"),
        add_space_prefix=model.space_prefix,
        lstrip=frozenset(token.id for token in added.values() if token.lstrip),
        rstrip=frozenset(token.id for token in added.values() if token.rstrip),
        file=str(path),
    )


def _from_merges(folder: Path, config: _Config) -> TokenizerData:
    name = config.tokenizer.get("tokenizer_class", "GPT2Tokenizer")
    pre = PRE_BY_CLASS.get(name) if isinstance(name, str) else None
    if pre is None:
        allowed = f"without tokenizer.json, {' and '.join(PRE_BY_CLASS)} are supported"
        raise UnsupportedError(folder / "tokenizer_config.json", "tokenizer_class", name, allowed)
    path = folder / "vocab.json"
    texts = tokenizer_json.vocabulary(json_file.read(path, VOCABULARY_LIMIT), path)
    added = {token.id: token for token in config.added_tokens()}
    texts.update((token.id, token.text("gpt2")) for token in added.values())
    tokens = tokenizer_json.by_id(texts, path)
    types = {i: NORMAL for i in texts} | {token.id: token.kind for token in added.values()}
    for i, text in texts.items():
        if text == "<|endoftext|>":
            types[i] = CONTROL
    return TokenizerData(
        model="gpt2",
        pre=pre,
        tokens=tokens,
        types=[types.get(i, UNUSED) for i in range(len(tokens))],
        merges=_merges(folder / "merges.txt"),
        eos=next((i for i, text in texts.items() if text == "<|endoftext|>"), None),
        add_bos=False,
        add_eos=False,
        lstrip=frozenset(token.id for token in added.values() if token.lstrip),
        rstrip=frozenset(token.id for token in added.values() if token.rstrip),
        file=str(path),
    )


def _merges(path: Path) -> list[str]:
    try:
        size = path.stat().st_size
        if size > VOCABULARY_LIMIT:
            raise FormatError(path, "size", size, f"up to {VOCABULARY_LIMIT} bytes are allowed")
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise FormatError(
            path, "text", error.object[error.start :][:8], "it must be UTF-8"
        ) from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    lines = [line.rstrip("\r") for line in lines]
    merges = [line for line in lines if line and not line.startswith("#version")]
    for number, merge in enumerate(merges):
        if merge.count(" ") != 1:
            raise FormatError(path, f"merge {number}", merge, "it must be two parts")
    return merges
