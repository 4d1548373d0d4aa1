"""What chat, run and serve share: the model loaded, a scheduler over it, conversations on top."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from edgellm import progress, runtime
from edgellm.commands import options as shared
from edgellm.runtime import Model
from edgellm.scheduler import Scheduler
from edgellm.service import Conversations, Render

CONTROL = 3
"""The type of a control token in a vocabulary, see `edgellm.tokenizer.TokenizerData`."""


def load(options: argparse.Namespace, slots: int = 1) -> Model:
    """The model that the options name, with a progress bar.

    To be called before an event loop runs, so that Ctrl-C can end it at once.
    """
    with progress.bar() as shown:
        return runtime.load(
            shared.model_path(options),
            exact=options.exact,
            context=options.ctx_size,
            slots=slots,
            progress=shown,
        )


@asynccontextmanager
async def conversations(model: Model, options: argparse.Namespace) -> AsyncIterator[Conversations]:
    """The service that channels talk to, while the block runs; closes the model afterwards."""
    async with Scheduler(model.executor, model.tokenizer) as scheduler:
        yield Conversations(
            scheduler,
            model.tokenizer,
            renderer(model, options),
            sampling=shared.sampling(options),
            max_tokens=options.predict,
            stop=options.reverse_prompt,
            system=options.system_prompt or "",
            control=control_texts(model),
            about={"model": model.checkpoint.provenance.name or Path(model.checkpoint.path).stem},
        )


def renderer(model: Model, options: argparse.Namespace) -> Render | None:
    """What puts the chat format around a conversation; None where the model gets raw text."""
    given = shared.chat_template(options)
    if options.no_conversation or not (given or model.checkpoint.template):
        return None
    from edgellm.chat import render_chat

    path = model.checkpoint.path
    return lambda messages: render_chat(messages, path=path, **given)


def control_texts(model: Model) -> list[str]:
    """Control tokens as they are written, which a user's text must not hold."""
    data = model.checkpoint.tokenizer
    if data is None:
        return []
    control = {token for token, kind in enumerate(data.types) if kind == CONTROL}
    return [data.tokens[token] for token in sorted(control | model.tokenizer.eog)]
