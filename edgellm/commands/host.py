"""What chat, run and serve share: the model loaded, a scheduler over it, conversations on top."""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import sys
from collections import ChainMap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm import __version__, backend_choice, bundle, model_files, progress, runtime
from edgellm.backend_choice import AUTO
from edgellm.chat import Chat, for_model
from edgellm.commands import options as shared
from edgellm.errors import UsageError
from edgellm.governor import Governor
from edgellm.notices import Notices
from edgellm.processor import ROOT
from edgellm.runner import Fallback, Watch
from edgellm.runtime import Model
from edgellm.sampling import Sampler
from edgellm.scheduler import Scheduler
from edgellm.service import Conversations
from edgellm.tokenizer import CONTROL, USER_DEFINED

if TYPE_CHECKING:
    from edgellm.executor import Executor
    from edgellm.history.session_store import SessionStore

DEFAULT_FALLBACK, NONE = "cpu", "none"
"""What takes over where nothing is said, and what says that nothing does."""


def load(options: argparse.Namespace, slots: int = 1) -> Model:
    """The model that the options name, with a progress bar.

    To be called before an event loop runs, so that Ctrl-C can end it at once. Raises UsageError,
    or TemplateError, for the other options too, before the long work.
    """
    shared.sampling(options)
    shared.chat_template(options)
    where, adapters = options.device, shared.adapters(options)
    if adapters:
        where = backend_choice.adapting(where, runtime.backend)
    file, tokenizer = runtime.read(shared.model_path(options), exact=options.exact, device=where)
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
            device=where,
            force=options.force,
            adapters=adapters,
            any_base=options.lora_any_base,
            progress=shown,
        )
    if options.verbose:
        print(f"device: {device(model, options)}", file=sys.stderr)
    # What loading made lives to the end: the garbage collector need not look through a million
    # objects again and again, least of all once more at exit.
    gc.freeze()
    return model


def device(model: Model, options: argparse.Namespace) -> str:
    """What runs the model, and why."""
    path = Path(shared.model_file(options))
    kept = None
    if backend_choice.wanted(options.device) == AUTO and not bundle.is_bundle(path):
        kept = backend_choice.remembered(path)
    chosen = kept or model.chosen
    return f"{chosen.backend} ({chosen.why})"


def fallback(model: Model, options: argparse.Namespace) -> Fallback | None:
    """The backend that takes over when the model's fails, if there is one. Raises BackendError for
    one that can't be used, UsageError where a bundle has no other."""
    name, path = options.fallback, Path(shared.model_file(options))
    if bundle.is_bundle(path):
        if name not in (None, NONE, model.chosen.backend):
            raise UsageError(f"--fallback {name}: {path} is built for {model.chosen.backend} alone")
        return None
    name = DEFAULT_FALLBACK if name is None else name
    if name in (NONE, model.chosen.backend):
        return None
    if options.fallback is None and name not in backend_choice.installed():
        return None
    runtime.backend(name)
    context, slots = model.executor.context, model.executor.slots

    def open() -> Executor:
        return runtime.load(
            path,
            exact=options.exact,
            context=context,
            slots=slots,
            device=name,
            adapters=shared.adapters(options),
            any_base=options.lora_any_base,
        ).executor

    return Fallback(name, open)


@asynccontextmanager
async def conversations(
    model: Model,
    options: argparse.Namespace,
    store: SessionStore | None = None,
    root: Path = ROOT,
    watch: Watch | None = None,
) -> AsyncIterator[Conversations]:
    """The service that channels talk to, while the block runs; closes the model afterwards. The
    machine's sensors are those below `root`; `watch` says what becomes of failures of the backend.
    """
    chat = for_model(model.file, **shared.chat_template(options))
    converses = chat.converses and not options.no_conversation
    about: dict[str, object] = {"model": model.file.provenance.name or Path(model.file.path).stem}
    notices = Notices()
    watch = replace(watch or Watch(model.chosen.backend), tell=notices.tell)
    async with Scheduler(model.executor, model.tokenizer, watch=watch) as scheduler:
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
            adapters=tuple(model.adapters),
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
        model.adapters,
        *(options.exact, model.chosen.backend, options.kv, options.predict, options.reverse_prompt),
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
