"""A vocabulary as bytes, as a bundle holds it: quick to read even with 200,000 tokens."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from edgellm import plain
from edgellm.errors import FormatError
from edgellm.tokenizer import BYTE, NORMAL, TokenizerData

MAX_BYTES = 256 << 20
MAX_TOKENS = 1 << 24
UNDEFINED = 0
"""A kind of token that GGUF has no number for."""
LONG = ("tokens", "merges", "scores", "types")


def write(data: TokenizerData) -> bytes:
    """The vocabulary as msgpack: texts as lists, numbers as arrays in little-endian order.

    Raises FormatError for a token that is no text.
    """
    content = {
        field.name: plain.plain(getattr(data, field.name))
        for field in fields(data)
        if field.name not in (*LONG, "file")
    }
    content["tokens"], content["merges"] = list(data.tokens), list(data.merges)
    content["scores"] = np.asarray(data.scores, "<f8").tobytes()
    kinds = (kind if NORMAL <= kind <= BYTE else UNDEFINED for kind in data.types)
    content["types"] = bytes(kinds)
    try:
        # Lone surrogates in tokens stand for bytes that aren't UTF-8.
        raw: bytes = msgpack.packb(content, unicode_errors="surrogateescape")
    except UnicodeEncodeError as error:
        raise FormatError(data.file, "token", error.object, "it must be Unicode text") from error
    return raw


def read(raw: memoryview, file: str) -> TokenizerData:
    """The vocabulary that `write` has written; raises FormatError, naming `file`, for others."""
    if raw.nbytes > MAX_BYTES:
        raise FormatError(file, "tokenizer's size", raw.nbytes, f"up to {MAX_BYTES} are allowed")
    try:
        content = msgpack.unpackb(
            raw, unicode_errors="surrogateescape", max_array_len=min(raw.nbytes, MAX_TOKENS)
        )
    except (ValueError, msgpack.UnpackException, MemoryError) as error:
        raise FormatError(file, "tokenizer", type(error).__name__, "msgpack is needed") from error
    if type(content) is not dict or not all(name in content for name in LONG):
        raise FormatError(file, "tokenizer", type(content).__name__, f"a map with {LONG}")
    tokens, merges = (_texts(content.pop(name), file, name) for name in ("tokens", "merges"))
    count = len(tokens)
    scores = _numbers(content.pop("scores"), "<f8", count, file, "scores")
    types = _numbers(content.pop("types"), "u1", count, file, "types")
    if not count:
        raise FormatError(file, "tokens", "none", "a vocabulary has tokens")
    if not np.isfinite(scores).all():
        raise FormatError(file, "scores", "nan or inf", "finite numbers are needed")
    if types.max(initial=NORMAL) > BYTE:
        raise FormatError(file, "types", int(types.max()), f"up to {BYTE} are allowed")
    data = plain.read(TokenizerData, content, file, "tokenizer")
    if data.model == "llama" and not scores.size and not merges:
        raise FormatError(file, "scores", "none", "SentencePiece merges by them")
    ids = {data.bos, data.eos, data.unk, data.pad, *data.lstrip, *data.rstrip, *data.extra_eog}
    for token in ids:
        if token is not None and not 0 <= token < count:
            raise FormatError(file, "special token", token, f"ids below {count} are allowed")
    return replace(
        data,
        tokens=tokens,
        merges=merges,
        scores=scores.tolist(),
        types=types.tolist(),
        file=file,
    )


def _texts(value: object, file: str, name: str) -> list[str]:
    if type(value) is not list or not set(map(type, value)) <= {str}:
        raise FormatError(file, name, type(value).__name__, "a list of texts is needed")
    return value


def _numbers(value: object, kind: str, count: int, file: str, name: str) -> NDArray[Any]:
    """One number a token, or none at all."""
    width = np.dtype(kind).itemsize
    if type(value) is not bytes or len(value) not in (0, count * width):
        raise FormatError(file, name, type(value).__name__, f"{count} numbers are needed")
    return np.frombuffer(value, kind)
