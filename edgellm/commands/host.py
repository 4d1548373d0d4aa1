"""What chat, run and serve share: the model loaded, a scheduler over it, conversations on top."""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
from collections import ChainMap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm import __version__, model_files, progress, runtime
from edgellm.chat import Chat, for_model
from edgellm.commands import options as shared
from edgellm.governor import Governor
from edgellm.notices import Notices
from edgellm.processor import ROOT
from edgellm.runtime import Model
from edgellm.sampling import Sampler
from edgellm.scheduler import Scheduler
from edgellm.service import Conversations
from edgellm.tokenizer import CONTROL, USER_DEFINED

if TYPE_CHECKING:
    from edgellm.history.session_store import SessionStore


def load(options: argparse.Namespace, slots: int = 1) -> Model:
    """The model that the options name, with a progress bar.

    To be called before an event loop runs, so that Ctrl-C can end it at once. Raises UsageError,
    or TemplateError, for the other options too, before the long work.
    """
    shared.sampling(options)
    shared.chat_template(options)
    file, tokenizer = runtime.read(
        shared.model_path(options), exact=options.exact, device=options.device
    )
    Sampler(shared.sampling(options, file.sampling), tokenizer)
    chat = for_model(file, **shared.chat_template(options))
    if chat.template is not None and not options.no_conversation:
        from edgellm.template import sandbox  # Jinja takes time to import

        sandbox.compile(chat.template)
    with progress.bar() as shown:
        model = runtime.start(
            file,
            tokenizer,
            exact=options.exact,
            context=options.ctx_size,
            slots=slots,
            threads=options.threads,
            kv=options.kv,
            device=options.device,
            progress=shown,
        )
    # What loading made lives to the end: the garbage collector need not look through a million
    # objects again and again, least of all once more at exit.
    gc.freeze()
    return model


@asynccontextmanager
async def conversations(
    model: Model,
    options: argparse.Namespace,
    store: SessionStore | None = None,
    root: Path = ROOT,
) -> AsyncIterator[Conversations]:
    """The service that channels talk to, while the block runs; closes the model afterwards. The
    machine's sensors are those below `root`."""
    chat = for_model(model.file, **shared.chat_template(options))
    converses = chat.converses and not options.no_conversation
    about: dict[str, object] = {"model": model.file.provenance.name or Path(model.file.path).stem}
    notices = Notices()
    async with Scheduler(model.executor, model.tokenizer) as scheduler:
        governor = Governor(model.executor.threads, scheduler.shift, notices.tell)
        service = Conversations(
            scheduler,
            model.tokenizer,
            chat.render if converses else None,
            sampling=shared.sampling(options, model.file.sampling),
            max_tokens=options.predict,
            stop=[*options.reverse_prompt, *(chat.stop if converses else ())],
            system=options.system_prompt or "",
            roll=options.context_shift,
            keep=options.keep,
            control=control_texts(model, chat),
            template=chat.template if converses else None,
            about=ChainMap(governor.status, about),
            store=store,
            fingerprint=str if store is None else fingerprint(model, options),
            notices=notices,
        )
        watching = asyncio.create_task(governor.watch(lambda: scheduler.busy, root))
        try:
            yield service
        finally:
            watching.cancel()
            service.end()


def fingerprint(model: Model, options: argparse.Namespace) -> Callable[[], str]:
    """Tells apart what may answer the same question in other words, also by its template's date."""
    chat = for_model(model.file, **shared.chat_template(options))
    decisive = (
        __version__,
        model_files.likeness(Path(model.file.path)),
        model.executor.context,
        replace(shared.sampling(options, model.file.sampling), seed=None),
        shared.chat_template(options),
        *(options.exact, options.device, options.kv, options.predict, options.reverse_prompt),
        *(options.system_prompt, options.context_shift, options.keep, options.no_conversation),
    )
    dated = chat.template is not None and "strftime_now" in chat.template

    def now() -> str:
        dates = chat.render([{"role": "user", "content": "U"}]) if dated else ""
        return hashlib.sha256(repr((decisive, dates)).encode()).hexdigest()[:16]

    return now


def control_texts(model: Model, chat: Chat) -> list[str]:
    """Tokens as they are written that a user's text must not hold: those that control the model,
    and of the user-defined ones, which often are line breaks or tags, those that mark a turn."""
    data = model.file.tokenizer
    if data is None:
        return []
    control = {
        token
        for token, kind in data.marked
        if kind == CONTROL or (kind == USER_DEFINED and _marks(chat, data.tokens[token]))
    }
    return [data.tokens[token] for token in sorted(control | model.tokenizer.eog)]


def _marks(chat: Chat, token: str) -> bool:
    """Whether a token marks a turn; never white space, a word or a sign, which any text holds."""
    return len(token) > 2 and not (token.isspace() or token.isalnum()) and chat.marks(token)
