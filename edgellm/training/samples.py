"""Samples: what a data file holds, as tokens and which of them are to be learnt.

A file is JSON Lines, one sample a line, or plain text:

  {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}, …]}
      OpenAI's form, with "tools" beside it if there are any; every answer is learnt
  {"prompt": "…", "completion": "…"}
      the completion is learnt
  {"text": "…"}
      all of it is learnt
  anything else
      one text, all of it learnt

Chats become text by the model's own template, prompts and completions stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgellm import bounded_file, json_file
from edgellm.chat import Chat
from edgellm.errors import EdgeError, FormatError
from edgellm.tokenizer import Tokenizer, prompt_ids

MAX_BYTES = 1 << 30
"""Of a data file."""
MAX_LINE = 1 << 22
MAX_MESSAGES = 4096


@dataclass(frozen=True)
class Sample:
    tokens: NDArray[np.int32]
    learnt: NDArray[np.bool_]
    """Of each token whether it is to be predicted."""


class Reader:
    """Makes samples for one model."""

    def __init__(self, tokenizer: Tokenizer, chat: Chat) -> None:
        self.tokenizer, self.chat = tokenizer, chat

    def read(self, path: str | Path) -> list[Sample]:
        """All samples of a file. Raises FormatError that names file and line, UsageError where the
        file can't be opened."""
        path = Path(path)
        raw = bounded_file.read(path, MAX_BYTES)
        if not raw.strip():
            raise FormatError(path, "content", "nothing", "it needs text or one sample a line")
        if path.suffix.lower() not in (".jsonl", ".ndjson", ".json") and raw.lstrip()[:1] != b"{":
            return [self._text(_decoded(raw, path))]
        samples = [
            sample
            for number, line in enumerate(raw.splitlines(), 1)
            if line.strip()
            for sample in self._line(line, f"{path}, line {number}")
        ]
        if not any(sample.learnt.any() for sample in samples):
            raise FormatError(path, "content", f"{len(samples)} samples", "none has an answer")
        return samples

    def _line(self, line: bytes, where: str) -> Iterator[Sample]:
        if len(line) > MAX_LINE:
            raise FormatError(where, "length", len(line), f"up to {MAX_LINE} bytes are allowed")
        found = json_file.parse(line, where)
        if "messages" in found:
            yield from self._chat(found, where)
        elif "prompt" in found or "completion" in found:
            prompt, completion = (_text(found, key, where) for key in ("prompt", "completion"))
            yield self._pieces([(prompt, False), (completion, True)])
        elif "text" in found:
            yield self._text(_text(found, "text", where))
        else:
            keys = ", ".join(sorted(found)) or "none"
            allowed = '"messages", "prompt" and "completion", or "text" is needed'
            raise FormatError(where, "keys", keys, allowed)

    def _text(self, text: str) -> Sample:
        ids = prompt_ids(self.tokenizer, text, parse_special=False)
        learnt = np.ones(len(ids), np.bool_)
        if ids and ids[0] == self.tokenizer.bos:
            learnt[0] = False
        return Sample(np.array(ids, np.int32), learnt)

    def _chat(self, found: Mapping[str, object], where: str) -> Iterator[Sample]:
        """One sample, or, where the template shows what came before otherwise once there is a newer
        question, one for each part that it leaves as it was."""
        messages = _messages(found["messages"], where)
        tools = found.get("tools")
        if not isinstance(tools, list | None):
            raise FormatError(where, "tools", type(tools).__name__, "it must be a list")
        pieces: list[tuple[str, bool]] = []
        done = ""
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            try:
                asked = self.chat.render(messages[:index], True, tools=tools)
                answered = self.chat.render(messages[: index + 1], False, tools=tools)
            except EdgeError as error:
                reason = f"the model's template can't take them: {error}"
                raise FormatError(where, "messages", len(messages), reason) from error
            if not answered.startswith(asked):
                allowed = (
                    "the model's template writes an answer otherwise than where it asks for it"
                )
                raise FormatError(where, f"message {index + 1}", "an answer", allowed)
            if not asked.startswith(done):
                yield self._pieces(pieces)
                pieces, done = [], ""
            pieces += [(asked[len(done) :], False), (answered[len(asked) :], True)]
            done = answered
        if not pieces:
            raise FormatError(where, "messages", len(messages), "one must be the assistant's")
        yield self._pieces(pieces)

    def _pieces(self, pieces: Sequence[tuple[str, bool]]) -> Sample:
        """Texts, each learnt or not. What follows an answer's end token isn't learnt; if the last
        answer has none, it gets one."""
        ids: list[int] = []
        learnt: list[bool] = []
        ends = self.tokenizer.eog
        for number, (text, is_answer) in enumerate(pieces):
            encode = prompt_ids if not ids else _encoded
            some = encode(self.tokenizer, text)
            if is_answer:
                stop = next((at for at, token in enumerate(some) if token in ends), None)
                is_last = number == len(pieces) - 1
                if stop is None and is_last and self.tokenizer.eos is not None:
                    some = [*some, self.tokenizer.eos]
                elif stop is not None and is_last:
                    some = some[: stop + 1]
                count = len(some) if stop is None else stop + 1
            else:
                count = 0
            ids += some
            learnt += [at < count for at in range(len(some))]
        return Sample(np.array(ids, np.int32), np.array(learnt, np.bool_))


def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, parse_special=True)


def _messages(value: object, where: str) -> list[dict[str, object]]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_MESSAGES:
        allowed = f"a list of 1 to {MAX_MESSAGES} messages is needed"
        raise FormatError(where, "messages", type(value).__name__, allowed)
    for index, message in enumerate(value, 1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise FormatError(
                where, f"message {index}", message, "it must have a role and a content"
            )
    return value


def _text(found: Mapping[str, object], key: str, where: str) -> str:
    value = found.get(key)
    if not isinstance(value, str):
        raise FormatError(where, key, value, "it must be text")
    return value


def _decoded(raw: bytes, path: Path) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        wrong = raw[error.start : error.start + 8]
        raise FormatError(f"{path}, line {line}", "text", wrong, "it must be UTF-8") from None
