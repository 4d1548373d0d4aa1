"""Chat: how one model's conversations become prompts, by its own template or a named format."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from edgellm.chat_format import ALIASES, FORMATS, ROLES, guess
from edgellm.errors import UsageError

if TYPE_CHECKING:
    from edgellm.checkpoint import Words
    from edgellm.tokenizer import TokenizerData


@dataclass(frozen=True)
class Chat:
    """A template or a named format, with what it needs to know of the vocabulary."""

    template: str | None = None
    """Jinja source; it comes before `format`."""
    format: str = "none"
    """A name in `chat_format.FORMATS`."""
    tokens: Mapping[str, str] = field(default_factory=dict)
    """What a template may call "bos_token", "eos_token", "unk_token" and "pad_token"."""

    @property
    def name(self) -> str:
        """ "template", or the format's name."""
        return "template" if self.template is not None else self.format

    @property
    def converses(self) -> bool:
        """False for a model that only continues text."""
        return self.name != "none"

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer, besides the vocabulary's own end tokens."""
        if self.template is not None:
            return ()
        return FORMATS[self.format].stops(self.tokens.get("eos_token", ""))

    def marks(self, text: str) -> bool:
        """Whether `text` may be what a turn is marked by.

        It may if it stands in the format, or in the template: as it is or, because templates put it
        together, cut at the name of a role.
        """
        if self.template is None:
            return text in FORMATS[self.format].wording
        ways = ([text], *(text.split(role) for role in ROLES if role in text))
        return any(all(part in self.template for part in parts) for parts in ways)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        now: datetime | None = None,
        **variables: Any,
    ) -> str:
        """The prompt of a conversation; see `render_chat`."""
        plain = [_plain(message) for message in messages]
        if self.template is None:
            tokens = {**self.tokens, **variables}
            said = [{**message, "content": message.get("content") or ""} for message in plain]
            return FORMATS[self.format].render(
                said,
                add_generation_prompt,
                bos_token=str(tokens.get("bos_token") or ""),
                eos_token=str(tokens.get("eos_token") or ""),
            )
        from edgellm.template import sandbox

        given = {
            "tools": None,
            "documents": None,
            **self.tokens,
            **variables,
            "messages": plain,
            "add_generation_prompt": add_generation_prompt,
        }
        return sandbox.render(self.template, given, now or _now())


def choose(
    template: str | None = None,
    format: str | None = None,
    *,
    own: str | None = None,
    name: str = "",
    vocabulary: TokenizerData | None = None,
) -> Chat:
    """The way to prompt a model: as asked by `template` or `format`, else by the template that its
    file holds (`own`), else by a guess from its name and vocabulary.

    Raises UsageError for a format that doesn't exist.
    """
    tokens = {}
    if vocabulary is not None:
        for word in ("bos", "eos", "unk", "pad"):
            token = getattr(vocabulary, word)
            if token is not None and 0 <= token < len(vocabulary.tokens):
                tokens[f"{word}_token"] = vocabulary.tokens[token]
    if template is not None:
        return Chat(template, tokens=tokens)
    if format is not None:
        known = ALIASES.get(format.lower(), format.lower())
        if known not in FORMATS:
            names = ", ".join(sorted(FORMATS))
            raise UsageError(f"there is no chat format {format!r}; known: {names}")
        return Chat(format=known, tokens=tokens)
    if own:
        return Chat(own, tokens=tokens)
    return Chat(format=guess(name, vocabulary.tokens if vocabulary else ()), tokens=tokens)


def for_model(words: Words, template: str | None = None, format: str | None = None) -> Chat:
    """The way to prompt the model of an opened file; see `choose`."""
    name = words.provenance.name or os.path.basename(words.path)
    return choose(template, format, own=words.template, name=name, vocabulary=words.tokenizer)


def render_chat(
    messages: Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str] | None = None,
    template: str | None = None,
    format: str | None = None,
    add_generation_prompt: bool = True,
    *,
    now: datetime | None = None,
    **variables: Any,
) -> str:
    """The prompt that a conversation becomes.

    `messages` are mappings with "role" and "content"; a content may be a list of text parts. The
    prompt is made by `template` (Jinja source), else by the named `format`, else as the model at
    `path` wants it, whose special tokens are used in any case. Further keywords (`tools`,
    `enable_thinking`, `bos_token`, …) are the template's variables. A template that asks for the
    date gets `now`, else the time in the environment's SOURCE_DATE_EPOCH, else the clock's.

    Raises UsageError for messages or a format that can't be used, TemplateError for a template that
    fails, refuses the conversation or exceeds its limits.
    """
    if path is not None:
        from edgellm import checkpoint

        chat = for_model(checkpoint.words(os.fspath(path)), template, format)
    elif template is None and format is None:
        raise UsageError("render_chat needs a path, a template or a format")
    else:
        chat = choose(template, format)
    return chat.render(messages, add_generation_prompt, now, **variables)


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a message, with a list of text parts made one text."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise UsageError(f"a message is {str(message)[:60]!r}; it must have a role and a content")
    content = message.get("content")
    if isinstance(content, list | tuple):
        texts = [_part(part) for part in content]
        content = "".join(texts)
    if not isinstance(content, str | None):
        kind = type(content).__name__
        raise UsageError(f"a message's content is of type {kind}; it must be text")
    return {**message, "content": content} if "content" in message else dict(message)


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise UsageError(f"a message has a part of type {kind!r}; only text is understood")


def _now() -> datetime:
    """The time for templates; reproducible builds and tests fix it by SOURCE_DATE_EPOCH."""
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        try:
            return datetime.fromtimestamp(int(epoch), UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise UsageError(
                f"SOURCE_DATE_EPOCH is {epoch!r}; it must be seconds since 1970"
            ) from error
    return datetime.now().astimezone()
