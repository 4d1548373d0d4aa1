"""Measures what a model costs on this machine: start-up, prefill and decode speed, memory."""

from __future__ import annotations

import functools
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edgellm import runtime
from edgellm.errors import UsageError
from edgellm.executor import Executor, Progress

SEED = 0


@dataclass(frozen=True)
class Speed:
    """One test, repeated; tokens per second."""

    test: str
    """"pp512": a prompt of 512 tokens; "tg128": 128 tokens generated one by one."""
    mean: float
    deviation: float
    """Of the sample; 0 for a single repetition."""


@dataclass(frozen=True)
class Report:
    model: str
    parameters: int
    bytes: int
    """Of the tensors in the file."""
    device: str
    mode: str
    """"exact" or "fast"."""
    load_s: float
    """From the call of `edgellm.load` to the executor being ready."""
    first_token_s: float
    """One token through the freshly loaded model."""
    speeds: tuple[Speed, ...]
    peak_bytes: int
    """Highest resident memory of this process so far."""

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def measure(
    path: str | None,
    *,
    prompt: int = 512,
    generated: int = 128,
    repetitions: int = 5,
    context: int | None = None,
    exact: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Report:
    """Load a model (None: the built-in one) and measure it; a test of 0 tokens is left out.

    `context` is as long as the tests need where it isn't given. Raises UsageError if it is shorter
    or the model can't have so many positions, else what `edgellm.load` does.
    """
    needed = max(prompt, generated, 1)
    if context is not None and context < needed:
        raise UsageError(f"a context of {context} tokens; these tests need {needed}")
    if repetitions < 1:
        raise UsageError(f"{repetitions} repetitions; give at least 1")
    started = time.perf_counter()
    context = context or needed
    model = runtime.load(path, exact=exact, context=context, device=device, progress=progress)
    loaded = time.perf_counter()
    with model:
        vocab = model.config.vocab
        tokens = np.random.Generator(np.random.PCG64(SEED)).integers(vocab, size=needed).tolist()
        model.executor.step(tokens[:1], [0], [0])
        first = time.perf_counter()
        tests: list[tuple[str, int, Callable[[Executor, list[int]], None]]] = [
            (f"pp{prompt}", prompt, _prefill),
            (f"tg{generated}", generated, _generate),
        ]
        speeds = tuple(
            _speed(name, functools.partial(run, model.executor, tokens[:n]), n, repetitions)
            for name, n, run in tests
            if n
        )
    return Report(
        model=model.checkpoint.provenance.name or Path(model.checkpoint.path).stem,
        parameters=sum(int(np.prod(t.shape)) for t in model.checkpoint.tensors.values()),
        bytes=sum(tensor.nbytes for tensor in model.checkpoint.tensors.values()),
        device=device,
        mode="exact" if exact else "fast",
        load_s=loaded - started,
        first_token_s=first - loaded,
        speeds=speeds,
        peak_bytes=peak_bytes(),
    )


def _prefill(executor: Executor, tokens: list[int]) -> None:
    executor.prefill(tokens, 0, 0)


def _generate(executor: Executor, tokens: list[int]) -> None:
    """What decoding costs the executor; which tokens they are makes no difference."""
    for position, token in enumerate(tokens):
        executor.step([token], [0], [position])


def _speed(test: str, run: Callable[[], None], tokens: int, repetitions: int) -> Speed:
    run()  # the first time may still compile
    rates = []
    for _ in range(repetitions):
        started = time.perf_counter()
        run()
        rates.append(tokens / (time.perf_counter() - started))
    deviation = statistics.stdev(rates) if repetitions > 1 else 0.0
    return Speed(test, statistics.mean(rates), deviation)


def peak_bytes() -> int:
    """Highest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
