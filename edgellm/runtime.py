"""A model loaded and ready: checkpoint, tokenizer and executor together, for one user at a time."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from edgellm import (
    adapter_choice,
    backend_choice,
    bundle,
    bundle_cache,
    generation,
    memory,
    plan,
    plugins,
    tokenizer,
)
from edgellm.backend_choice import AUTO, Chosen
from edgellm.bundle import Bundle
from edgellm.checkpoint import Checkpoint
from edgellm.errors import BackendError, FormatError, UsageError
from edgellm.executor import KV
from edgellm.key_folder import KeyFolder
from edgellm.keys import MAX_CONTEXT
from edgellm.sampling import Sampling

if TYPE_CHECKING:
    from edgellm.adapter import Adapter
    from edgellm.checkpoint import ModelFile
    from edgellm.config import Config
    from edgellm.executor import Backend, Executor, Progress
    from edgellm.generation import Piece
    from edgellm.tokenizer import Tokenizer

LARGEST_DEFAULT = 4096
SMALLEST_DEFAULT = 512


class Model:
    """A loaded model. Close it, or use it in a `with` statement, to free its memory."""

    def __init__(
        self,
        file: ModelFile,
        tokenizer: Tokenizer,
        executor: Executor,
        reopen: Callable[[int], Executor] | None = None,
        chosen: Chosen | None = None,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        """`reopen` makes an executor with a longer context, for prompts that need one."""
        self.file = file
        self.chosen = chosen or Chosen("in use", "")
        """The backend that runs it, and why."""
        self.adapters = {adapter.name: adapter.digest() for adapter in adapters}
        """The names of the adapters that it was loaded with, and a hash of each."""
        self.tokenizer = tokenizer
        self._slot = generation.SingleSlot(executor)
        self._reopen = reopen

    @property
    def executor(self) -> Executor:
        """What runs the model now; a scheduler may take it over."""
        return self._slot.executor

    @property
    def config(self) -> Config:
        """What the forward pass depends on: widths, layers, norms, positions."""
        return self.file.config

    def logits(self, ids: Sequence[int], adapter: str | None = None) -> NDArray[np.float32]:
        """Scores of every token after each of `ids`, (len(ids), vocab); `adapter` as in `generate`.

        Raises ContextError if there are more ids than the context holds, UsageError for none or
        for ids outside the vocabulary.
        """
        ids = self._prompt(ids)
        with self._slot.turn:
            generation.check_prompt(self.executor, ids)
            return self._slot.every(ids, adapter_choice.strengths(adapter, self.adapters))

    def generate(
        self,
        ids_or_text: str | Sequence[int],
        max_tokens: int | None = 128,
        temperature: float = 0.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        adapter: str | None = None,
        **sampling: Any,
    ) -> Iterator[Piece]:
        """Continue a prompt; yields pieces with .token and .text, the last with .done, statistics.

        Text becomes tokens with the model's bos (once, if the text begins with it already), control
        tokens written out in it included. Without `max_tokens` the answer may fill the context; it
        ends before any of the `stop` texts. Answers may be drawn in turns; each stays what it is.
        `adapter` chooses adapters ("pirate:0.5,terse"); see `edgellm.adapter_choice`.
        `sampling` takes the fields of `edgellm.sampling.Sampling`. Raises UsageError for others,
        ContextError if the prompt is longer than the context.
        """
        unknown = sampling.keys() - {field.name for field in fields(Sampling)}
        if unknown:
            raise UsageError(f"unknown sampling option {min(unknown)!r}")
        if isinstance(ids_or_text, str):
            ids_or_text = tokenizer.prompt_ids(self.tokenizer, ids_or_text)
        return generation.generate(
            self._slot,
            self.tokenizer,
            self._prompt(ids_or_text),
            Sampling(temperature=temperature, seed=seed, **sampling),
            max_tokens=-1 if max_tokens is None else max_tokens,
            stop=(stop,) if isinstance(stop, str) else stop or (),
            strengths=adapter_choice.strengths(adapter, self.adapters),
        )

    def close(self) -> None:
        """Free the model's memory; it can't be used afterwards."""
        with self._slot.turn:
            self._slot.close()

    def _prompt(self, ids: Sequence[int]) -> list[int]:
        """The ids as a list, and room for them where the context may grow."""
        self._slot.check_open()
        try:
            checked = [operator.index(token) for token in ids]
        except TypeError as error:
            raise UsageError("token ids are whole numbers in one list") from error
        with self._slot.turn:
            if len(checked) > self.executor.context and self._reopen is not None:
                self._slot.move(self._reopen(len(checked)))
        return checked

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load(
    path: str | os.PathLike[str] | None = None,
    exact: bool = False,
    context: int | None = None,
    *,
    slots: int = 1,
    threads: int | None = None,
    kv: KV | None = None,
    device: str = AUTO,
    force: bool = False,
    adapters: Sequence[str | os.PathLike[str]] = (),
    any_base: bool = False,
    progress: Progress | None = None,
) -> Model:
    """Open a bundle, a GGUF file or a Hugging Face folder (None: the built-in model), ready to run.

    Of a model that isn't a bundle one is built first, and kept in the cache for the next time;
    `exact` builds none, but computes in float32 over exactly dequantised weights. `context` is the
    number of positions of each of `slots` sequences. By default it is what the model was trained
    for (of longrope models, before its stretching), within 512 and 4096, and grows with a longer
    prompt. `threads` compute, and `kv` says how keys and values are kept ("int8" halves the memory
    of "f16"): by default what the backend finds best. `device` "auto" is, of the backends that the
    board's profile allows, the one that measures fastest. `adapters` are files of LoRA, as FILE or
    FILE:STRENGTH; one that was made for another model is refused unless `any_base` is set.

    Raises FormatError or UnsupportedError for a file that can't be run, TrustError for a bundle by
    somebody who isn't trusted, UsageError for a bad argument, BackendError if there is no such
    device or no compiler, FitError if the machine hasn't memory enough left (with `force` it is
    tried all the same), or room on the disk.
    """
    device = backend_choice.adapting(device, backend) if adapters else device
    file, vocabulary = read(path, exact=exact, device=device)
    return start(
        file,
        vocabulary,
        exact=exact,
        context=context,
        slots=slots,
        threads=threads,
        kv=kv,
        device=device,
        force=force,
        adapters=adapters,
        any_base=any_base,
        progress=progress,
    )


def read(
    path: str | os.PathLike[str] | None = None, *, exact: bool = False, device: str = AUTO
) -> tuple[Checkpoint | Bundle, Tokenizer]:
    """What `load` opens before it builds: little work, after which options can be checked.

    A bundle if `path` is one, or has one in the cache; else a checkpoint.
    """
    where = default_model() if path is None else Path(path)
    with memory.fitting(where):
        file = _opened(where, exact, device)
        data = file.tokenizer
        if data is None:
            raise FormatError(file.path, "tokenizer", None, "the model needs its vocabulary")
        vocabulary = tokenizer.make(data)
    if vocabulary.size > file.config.vocab:
        raise FormatError(
            file.path,
            "tokenizer's size",
            vocabulary.size,
            f"the embedding has only {file.config.vocab} rows",
        )
    return file, vocabulary


def _opened(path: Path, exact: bool, device: str) -> Checkpoint | Bundle:
    if bundle.is_bundle(path):
        if exact:
            raise UsageError(f"{path}: a bundle has no exact mode; give the model's own file")
        return bundle.open(path)
    if not exact and path.exists():
        chosen = backend_choice.still_usable(path, backend, device)
        if chosen is not None:
            found = bundle_cache.find(bundle_cache.place(path, backend(chosen.backend)))
            if found is not None:
                return found
    from edgellm import checkpoint

    return checkpoint.open(path)


def start(
    file: Checkpoint | Bundle,
    tokenizer: Tokenizer,
    *,
    exact: bool = False,
    context: int | None = None,
    slots: int = 1,
    threads: int | None = None,
    kv: KV | None = None,
    device: str = AUTO,
    force: bool = False,
    adapters: Sequence[str | os.PathLike[str]] = (),
    any_base: bool = False,
    progress: Progress | None = None,
) -> Model:
    """Run what `read` has opened; arguments and errors are those of `load`."""
    for name, count in (("slots", slots), ("threads", 1 if threads is None else threads)):
        if not isinstance(count, int) or count < 1:
            raise UsageError(f"{count!r} {name}; give a whole number from 1 on")
    if kv not in (None, *get_args(KV)):
        raise UsageError(f"keys and values in {kv!r}; there are {', '.join(get_args(KV))}")

    def check(positions: int) -> None:
        if not force:
            kept = kv or plan.usual_kv(backend_choice.wanted(device))
            plan.check(file, context=positions, slots=slots, kv=kept, exact=exact)

    check(context_for(file, context))
    choice = _chosen(file, device, exact, lambda model, one: _built(model, one, progress))
    chosen, ready = backend(choice.backend), file
    loaded = adapter_choice.load(adapters, file, chosen, any_base=any_base)
    adapted: dict[str, Any] = {"adapters": loaded} if loaded else {}
    if isinstance(file, Checkpoint) and not exact:
        ready = _built(file, chosen, progress)
    if isinstance(ready, Bundle):
        _check_target(ready, chosen)

    def open(positions: int | None) -> Executor:
        wanted = context_for(ready, positions)
        with backend_choice.named(chosen.name), memory.fitting(ready.path):
            if isinstance(ready, Bundle):
                return chosen.open(
                    ready,
                    context=wanted,
                    slots=slots,
                    threads=threads,
                    kv=kv,
                    progress=progress,
                    **adapted,
                )
            return chosen.reference(
                ready, context=wanted, slots=slots, progress=progress, **adapted
            )

    def longer(needed: int) -> Executor:
        # By doubling, for the longer prompts that may follow; the file's own length is a stop.
        wished = 1 << (needed - 1).bit_length()
        positions = context_for(ready, min(wished, max(ready.config.context, needed)))
        check(positions)
        return open(positions)

    fixed = context is not None or ready.config.position == "learned"
    return Model(ready, tokenizer, open(context), None if fixed else longer, choice, loaded)


def _chosen(
    file: Checkpoint | Bundle,
    device: str,
    exact: bool,
    built: Callable[[Checkpoint, Backend], Bundle],
) -> Chosen:
    """The backend for a device. Of several that may be used here the fastest, kept for the next
    time; a bundle names its own."""
    if device == AUTO and isinstance(file, Bundle):
        return Chosen(file.backend, "the bundle is built for it")
    device = backend_choice.wanted(device)
    if device != AUTO or isinstance(file, Bundle):
        return Chosen(device, "as was asked for")
    path = Path(file.path)
    if kept := backend_choice.still_usable(path, backend):
        return kept
    may = backend_choice.allowed()
    names = backend_choice.usable(may, backend) if len(may) > 1 else may
    if len(names) == 1:
        chosen = Chosen(names[0], f"no other can be used here (of {', '.join(may)})")
    elif exact:
        return Chosen(names[0], "the board's first")
    else:

        def measured(name: str) -> Executor:
            one = backend(name)
            context = context_for(file, min(backend_choice.CONTEXT, context_for(file)))
            return one.open(built(file, one), context=context)

        chosen = backend_choice.fastest(names, measured)
    backend_choice.remember(path, chosen)
    return chosen


def _built(file: Checkpoint, chosen: Backend, progress: Progress | None) -> Bundle:
    """The bundle of a checkpoint, in the cache from now on."""
    from edgellm import bundle_builder

    place = bundle_cache.place(Path(file.path), chosen)
    if (found := bundle_cache.find(place)) is not None:  # the choice has built it
        return found
    with backend_choice.named(chosen.name):
        bundle_builder.build(file, place, chosen, chosen.target(), KeyFolder(), progress=progress)
    bundle_cache.tidy(place)
    return bundle.open(place)


def _check_target(file: Bundle, chosen: Backend) -> None:
    """Raise BackendError for a bundle that the backend, or this machine, can't run."""
    if file.backend != chosen.name:
        raise BackendError(f"{file.path}: built for {file.backend}, not for {chosen.name}")
    lacks = chosen.lacks(file.target)
    if lacks is not None:
        raise BackendError(
            f"{file.path}: built for {file.target.name}, but {lacks}; build it for this machine"
        )


def default_model() -> Path:
    """The model inside the package."""
    from importlib.resources import files

    return Path(str(files("edgellm") / "default_model.gguf"))


def context_for(file: ModelFile, asked: int | None = None) -> int:
    """How many positions a slot is to hold. Raises UsageError if the model can't have so many."""
    config = file.config
    most = MAX_CONTEXT
    if config.position == "learned":
        most = file.tensors["position_embd.weight"].shape[0]
    stretched = [rope.original_context for rope in config.ropes if rope.long_factors]
    if asked is None and stretched:
        # Beyond it all positions would be rotated by the long factors, short prompts' too.
        return min(stretched[0], LARGEST_DEFAULT)
    if asked is None:
        return min(max(min(config.context, LARGEST_DEFAULT), SMALLEST_DEFAULT), most)
    if not isinstance(asked, int) or not 1 <= asked <= most:
        raise UsageError(f"a context of {asked!r} tokens; give 1 to {most}")
    return asked


def backend(device: str, *, here: bool = True) -> Backend:
    """The backend for a device; for "auto" the first that the board allows and that runs here.

    Raises BackendError if no plugin has it, or, unless it is only to build for elsewhere, it can't
    run here.
    """
    device = backend_choice.wanted(device)
    if device == AUTO:
        device = backend_choice.usable(backend_choice.allowed(), backend)[0]
    found: Backend | None = plugins.ask("backend", device=device)
    if found is None:
        names = plugins.offered("backend")
        raise BackendError(f"no backend runs on {device!r}; there are: {names}")
    with backend_choice.named(device):
        if here and found.probe() is None:
            why = found.lacks(found.target()) or f"it finds no {device!r} here to run on"
            raise BackendError(f"the backend {found.name!r} can't run here: {why}")
    return found
