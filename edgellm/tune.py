"""Adapting a model to a file of samples: everything from the checkpoint to what is written."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgellm import adapter, bundle, chat, checkpoint, layout, runtime, tokenizer
from edgellm.errors import BackendError, EdgeError, FormatError, UsageError
from edgellm.training import estimate, low_rank, packed_rows
from edgellm.training.estimate import Shape
from edgellm.training.names import LOW, UP
from edgellm.training.operations import TrainingBackend
from edgellm.training.samples import Reader, Sample
from edgellm.training.settings import Settings

if TYPE_CHECKING:
    from edgellm.checkpoint import Checkpoint
    from edgellm.executor import Progress
    from edgellm.training.batch import Batch
    from edgellm.training.course import Course, Listener
    from edgellm.training.low_rank import Arrays
    from edgellm.training.packed_rows import Row


@dataclass(frozen=True)
class Data:
    """Samples as rows: to learn, held out, and known already, which are rehearsed."""

    rows: list[Row]
    held_out: list[Row]
    known: list[Row]
    samples: int
    cut: int
    """Samples that were longer than a row."""
    sha256: str


@dataclass(frozen=True)
class Forecast:
    """What a training will take."""

    shape: Shape
    """Of the batches computed at once."""
    together: int
    """Such batches in a step."""
    steps: int
    nbytes: int
    seconds: float


class Tuning:
    """One training, prepared and then run; nothing heavy happens before `course` is asked for."""

    def __init__(
        self,
        model: str | Path | None,
        data: str | Path,
        settings: Settings,
        *,
        held_out: str | Path | None = None,
        rehearsed: str | Path | None = None,
        device: str = "cpu",
        threads: int | None = None,
        max_bytes: int | None = None,
    ) -> None:
        """Reads and checks all input. `held_out` is a file of samples to look at, instead of a
        share of the data; `rehearsed` one of samples that the model knows, each of which comes once
        between the others. Raises EdgeError of all kinds."""
        settings.check()
        self.base = _opened(model)
        backend = runtime.backend(device)
        if not isinstance(backend, TrainingBackend):
            raise BackendError(f"the backend {backend.name!r} can't train; leave --device out")
        self._backend, self._threads = backend, threads
        length = min(settings.length, runtime.context_for(self.base, settings.length))
        self.settings = replace(settings, length=length)
        self.data = read_data(self.base, data, self.settings, held_out, rehearsed)
        self._order = lru_cache(2)(packed_rows.order)
        self._shapes = self._learnt_shapes()
        self.forecast = self._forecast(max_bytes)

    def _learnt_shapes(self) -> dict[str, tuple[int, ...]]:
        settings = self.settings
        if settings.full:
            _check_full(self.base)
            return {
                name: tensor.shape or (1,)
                for name, tensor in self.base.tensors.items()
                if name not in layout.TABLES
            }
        shapes: dict[str, tuple[int, ...]] = {}
        for name, (out, width) in low_rank.chosen(self.base, settings.targets).items():
            shapes[f"{name}.{LOW}"] = (settings.rank, width)
            shapes[f"{name}.{UP}"] = (out, settings.rank)
        return shapes

    @property
    def learnt_count(self) -> int:
        """Numbers that are learnt."""
        return sum(math.prod(shape) for shape in self._shapes.values())

    @property
    def _learning(self) -> int:
        """Rows to learn in all epochs."""
        return math.ceil(self.settings.epochs * len(self.data.rows))

    def _forecast(self, max_bytes: int | None) -> Forecast:
        settings, rows = self.settings, self._learning + len(self.data.known)
        fitting = len(self.data.rows) + len(self.data.known)
        wanted = min(max(settings.batch // settings.length, 1), fitting)
        shape, nbytes = estimate.fit(self.base, wanted, settings.length, self._shapes, max_bytes)
        steps = settings.steps or max(math.ceil(rows / wanted), 1)
        a_token = estimate.seconds_per_token(self.base, settings.full, shape)
        looked = min(settings.looks + 1, steps) * len(self.data.held_out) / 3
        seconds = a_token * settings.length * (steps * wanted + looked)
        return Forecast(shape, wanted // shape.rows, steps, nbytes, seconds)

    def course(self, progress: Progress | None = None) -> Course:
        """The training at its beginning, the model loaded."""
        operations = self._backend.training(self._threads)
        from edgellm.training.course import Course, Plan
        from edgellm.training.network import Network
        from edgellm.training.optimiser import Rule
        from edgellm.training.schedule import Schedule

        settings, forecast = self.settings, self.forecast
        shape = forecast.shape.rows, forecast.shape.length
        network = Network(
            self.base.config,
            self.base.tensors,
            operations,
            self._first_values(),
            scale=settings.alpha / settings.rank,
            dropout=settings.dropout,
            roomy=forecast.shape.roomy,
            progress=progress,
        )
        schedule = Schedule(
            forecast.steps, settings.learning_rate, round(settings.warm_up * forecast.steps)
        )
        plan = Plan(
            schedule,
            Rule(decay=settings.weight_decay),
            look_every=max(forecast.steps // settings.looks, 1),
            patience=settings.patience,
        )
        held_out = [packed_rows.batch(some, *shape) for some in _cut(self.data.held_out, shape[0])]
        return Course(network, plan, self._batches, held_out, settings.seed)

    def _first_values(self) -> Arrays:
        if self.settings.full:
            return {
                name: np.array(self.base.tensors[name].float32(), np.float32).reshape(shape)
                for name, shape in self._shapes.items()
            }
        chosen = low_rank.chosen(self.base, self.settings.targets)
        return low_rank.first_values(chosen, self.settings.rank, self.settings.seed)

    def _batches(self, step: int) -> Iterable[Batch]:
        forecast = self.forecast
        count = forecast.together * forecast.shape.rows
        picked = [self._row(place) for place in range(step * count, (step + 1) * count)]
        return [
            packed_rows.batch(some, forecast.shape.rows, forecast.shape.length)
            for some in _cut(picked, forecast.shape.rows)
        ]

    def _row(self, place: int) -> Row:
        """One of the whole training: those of an epoch in its order, then those of the next, and
        evenly between them the rehearsed ones."""
        rows, known, seed = self.data.rows, self.data.known, self.settings.seed
        every = len(known) + self._learning
        before = place * len(known) // every
        if (place + 1) * len(known) // every > before:
            return known[before % len(known)]
        epoch, at = divmod(place - before, len(rows))
        return rows[self._order(len(rows), seed, epoch)[at]]

    def identity(self) -> dict[str, object]:
        """What must be the same for a training to go on."""
        settings = asdict(self.settings)
        return {
            **settings,
            "targets": list(self.settings.targets),
            "model": adapter.base_sha256(self.base),
            "data": self.data.sha256,
            "rows at once": self.forecast.shape.rows,
        }

    def write(self, output: Path, course: Course) -> None:
        """Write what has been learnt: a folder as PEFT has it, or, if the name ends with .gguf, a
        GGUF file. Raises UnsupportedError, OSError."""
        learnt = course.learnt()
        if self.settings.full:
            from edgellm.training.model_writer import write_changed

            write_changed(output, self.base, learnt)
            return
        settings = self.settings
        made = low_rank.as_adapter(
            output.stem, learnt, settings.alpha / settings.rank, self.base,
            f"learnt by edgellm from data with sha256 {self.data.sha256[:16]}",
        )  # fmt: skip
        write = adapter.write_gguf if output.suffix == ".gguf" else adapter.write_peft
        write(output, made, self.base)


def train(
    course: Course, listener: Listener, state: Path, identity: dict[str, object], every: float
) -> bool:
    """Run a course with its state saved; False if it was stopped. Raises EdgeError."""
    from edgellm.training.state import save

    try:
        return course.run(listener, lambda: save(state, course, identity), every)
    except FloatingPointError as error:
        raise EdgeError(
            f"the loss of step {error} isn't a number any more; a lower learning rate (-lr) helps"
        ) from None


def read_data(
    base: Checkpoint,
    path: str | Path,
    settings: Settings,
    held_out: str | Path | None = None,
    rehearsed: str | Path | None = None,
) -> Data:
    """The samples of files for a model, checked. Raises FormatError with the line, UsageError."""
    if base.tokenizer is None:
        raise FormatError(base.path, "tokenizer", None, "the model needs its vocabulary")
    reader = Reader(tokenizer.make(base.tokenizer), chat.for_model(base))
    length = settings.length
    samples, longer = packed_rows.cut(reader.read(path), length)
    looked: Sequence[Sample]
    if held_out is not None:
        looked, _ = packed_rows.cut(reader.read(held_out), length)
    else:
        count = round(settings.held_out * len(samples))
        shuffled = [samples[at] for at in packed_rows.order(len(samples), settings.seed, -1)]
        looked, samples = shuffled[:count], shuffled[count:]
    if not samples:
        raise UsageError(f"{path}: no sample has anything to learn within {length} tokens")
    known = packed_rows.cut(reader.read(rehearsed), length)[0] if rehearsed is not None else []
    digest = hashlib.sha256()
    for sample in (*samples, *looked, *known):
        digest.update(sample.tokens.tobytes() + sample.learnt.tobytes())
    pack = packed_rows.pack
    return Data(
        pack(samples, length, settings.seed, settings.together),
        pack(looked, length, settings.seed, settings.together),
        pack(known, length, settings.seed, settings.together),
        len(samples),
        longer,
        digest.hexdigest(),
    )


def _opened(model: str | Path | None) -> Checkpoint:
    path = runtime.default_model() if model is None else Path(model)
    if bundle.is_bundle(path):
        raise UsageError(f"{path}: that is a bundle; give the model's own file")
    return checkpoint.open(path)


def _check_full(base: Checkpoint) -> None:
    if base.format != "gguf":
        raise UsageError(f"{base.path}: --full writes GGUF, and needs it; give a GGUF file")


def _cut(rows: Sequence[Row], count: int) -> list[Sequence[Row]]:
    return [rows[at : at + count] for at in range(0, len(rows), count)]
