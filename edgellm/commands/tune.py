"""edgellm tune: a model adapted to a file of samples, on this machine."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm import atomic_file, memory, progress
from edgellm.commands import options as shared
from edgellm.errors import UsageError
from edgellm.memory import size
from edgellm.training.settings import Settings

if TYPE_CHECKING:
    from edgellm.executor import Progress
    from edgellm.training.course import Course
    from edgellm.training.record import History
    from edgellm.tune import Tuning

EPILOG = """\
examples:
  edgellm tune model.gguf chats.jsonl -o adapter
  edgellm tune model.gguf notes.txt -o adapter.gguf --epochs 1 -c 512
  edgellm tune model.gguf chats.jsonl -o adapter --max-ram 2G --patience 3
  edgellm tune model.gguf chats.jsonl -o adapter --resume
  edgellm tune small.gguf chats.jsonl -o changed.gguf --full --rehearse known.jsonl

DATA is JSON Lines, one sample a line, {"messages": […]} as OpenAI has it (all answers are learnt),
{"prompt": "…", "completion": "…"} or {"text": "…"}; or plain text. Chats are put into the model's
own format. Beside the adapter there will be NAME.log.json, NAME.loss.png and, while it is trained,
NAME.state, from which --resume goes on after Ctrl-C or a power cut.
"""

DEFAULTS = Settings()


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("model", metavar="MODEL", help="a GGUF file or a Hugging Face folder")
    parser.add_argument("data", metavar="DATA", help="the samples to learn")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="ADAPTER",
        help="what to write: NAME.gguf, or a folder as PEFT has it",
    )  # fmt: skip
    add = parser.add_argument
    add("--rank", type=shared.positive, default=DEFAULTS.rank, metavar="R",
        help="rank of the adapter's matrices (default: %(default)s)")  # fmt: skip
    add("--alpha", type=float, metavar="A", help="they are scaled by A / R (default: 2 R)")
    add("--targets", default="*", metavar="NAMES",
        help="matrices to adapt, by comma: attn_q,attn_v or ffn_* (default: all)")  # fmt: skip
    for flags, name, kind, metavar, text in _NUMBERS:
        default = getattr(DEFAULTS, name)
        add(*flags, dest=name, type=kind, default=default, metavar=metavar,
            help=f"{text} (default: {default:g})")  # fmt: skip
    add("--no-packing", action="store_true", help="one sample a row")
    add("--val-file", metavar="FILE", help="samples to look at, instead of a share of DATA")
    add(
        "--rehearse",
        metavar="FILE",
        help="samples that the model knows: each comes once between the others, against forgetting",
    )
    add("--full", action="store_true", help="train every weight; writes a whole model as GGUF")
    add("--max-ram", type=amount, metavar="SIZE", help="memory that may be taken, such as 2G")
    add("--save-every", type=float, default=3.0, metavar="MIN",
        help="minutes between two savings (default: 3)")  # fmt: skip
    add("--resume", action="store_true", help="go on where it was interrupted")
    add("--dry-run", action="store_true", help="check the data and tell what it would take")
    add("--json", action="store_true", help="print the result as a JSON object")
    add("-t", "--threads", type=shared.positive, metavar="N", help="threads (default: one a core)")
    add("--device", default="cpu", metavar="NAME", help="where to train (default: cpu)")


_NUMBERS: tuple[tuple[tuple[str, ...], str, Any, str, str], ...] = (
    (("--dropout",), "dropout", float, "P", "share of the adapter's inputs that is left out"),
    (("-lr", "--learning-rate"), "learning_rate", float, "X", "the highest learning rate"),
    (("--warm-up",), "warm_up", float, "P", "share of the steps in which the rate rises"),
    (("-wd", "--weight-decay"), "weight_decay", float, "X", "weight decay of matrices"),
    (("-epochs", "--epochs"), "epochs", float, "N", "times that every sample is learnt"),
    (("--steps",), "steps", int, "N", "steps, instead of epochs"),
    (("-b", "--batch-size"), "batch", shared.positive, "N", "tokens of a step"),
    (("-c", "--ctx-size"), "length", shared.positive, "N", "tokens of a row"),
    (("-val-split", "--val-split"), "held_out", float, "P", "share of DATA that isn't learnt but "
     "looked at"),
    (("--looks",), "looks", shared.positive, "N", "looks at it"),
    (("--patience",), "patience", int, "N", "looks without a better loss before it ends, and the "
     "best is kept; 0: off"),
    (("-s", "--seed"), "seed", int, "N", "the seed of all chance"),
)  # fmt: skip


def amount(text: str) -> int:
    """An argument type: bytes, in units such as 512M or 2G."""
    units = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    number = text.upper().removesuffix("B").removesuffix("I")
    unit = number[-1:] if number[-1:] in units else ""
    try:
        found = int(float(number.removesuffix(unit)) * units[unit])
    except (ValueError, OverflowError):
        found = 0
    if found <= 0:
        raise argparse.ArgumentTypeError(f"{text!r}; give a size such as 512M or 2G")
    return found


def main(options: argparse.Namespace) -> int:
    from edgellm.tune import Tuning, train

    output: Path = options.output
    _check(output, options)
    most = options.max_ram or memory.physical()
    tuning = Tuning(
        options.model,
        options.data,
        settings(options),
        held_out=options.val_file,
        rehearsed=options.rehearse,
        device=options.device,
        threads=options.threads,
        max_bytes=most,
    )
    tell(tuning)
    if options.dry_run:
        return 0
    state = output.with_name(f"{output.name}.state")
    identity = tuning.identity()
    with progress.bar() as shown:
        course = tuning.course(shown)
    if options.resume:
        from edgellm.training.state import restore

        restore(state, course, identity)
        print(f"going on after step {course.optimiser.taken}", file=sys.stderr)
    began = time.monotonic()
    with progress.bar() as shown, interruptions() as stopping:
        listener = Listener(course, shown, stopping)
        try:
            finished = train(course, listener, state, identity, options.save_every * 60)
        except Exception:
            if not stopping:
                raise
            finished = False  # Ctrl-C reaches a compiler that is at work, too
    if not finished:
        then = "the same command with --resume goes on" if state.exists() else "nothing is saved"
        print(f"stopped after step {course.optimiser.taken}; {then}", file=sys.stderr)
        return 128 + signal.SIGINT
    tuning.write(output, course)
    result = write_report(output, tuning, course, time.monotonic() - began)
    state.unlink(missing_ok=True)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print(summary(output, result), file=sys.stderr)
    return 0


def settings(options: argparse.Namespace) -> Settings:
    numbers = {name: getattr(options, name) for _, name, *_ in _NUMBERS}
    return Settings(
        rank=options.rank,
        alpha=2.0 * options.rank if options.alpha is None else options.alpha,
        targets=tuple(name.strip() for name in options.targets.split(",") if name.strip()),
        together=not options.no_packing,
        full=options.full,
        **numbers,
    )


def _check(output: Path, options: argparse.Namespace) -> None:
    model = Path(options.model)
    if output.exists() and model.exists() and output.samefile(model):
        raise UsageError(f"{output}: that is the model; give another name")
    if output.is_dir() and (output.suffix == ".gguf" or options.full):
        raise UsageError(f"{output}: that is a folder; give a file")
    if output.is_file() and output.suffix != ".gguf":
        raise UsageError(f"{output}: that is a file; an adapter is a folder or NAME.gguf")
    if options.full and output.suffix != ".gguf":
        raise UsageError(f"{output}: a whole model is written as GGUF; give NAME.gguf")
    if not output.absolute().parent.is_dir():
        raise UsageError(f"{output}: there is no folder {output.parent}")


def tell(tuning: Tuning) -> None:
    """What will be done, and what it will take."""
    data, forecast = tuning.data, tuning.forecast
    looked = sum(map(len, data.held_out))
    cut = f", {data.cut} of them longer than a row" if data.cut else ""
    known = f", {sum(map(len, data.known))} rehearsed" if data.known else ""
    rows = forecast.together * forecast.shape.rows
    print(
        f"{data.samples} samples in {len(data.rows)} rows of {forecast.shape.length} tokens{cut}, "
        f"{looked} held out{known}\n"
        f"{tuning.learnt_count:,} numbers to learn; {forecast.steps} steps of {rows} rows, "
        f"{forecast.shape.rows} at once\n"
        f"estimate: {size(forecast.nbytes)} of memory, {duration(forecast.seconds)}",
        file=sys.stderr,
    )


class Listener:
    """Shows how training goes: in a bar, or line by line where nobody watches."""

    def __init__(self, course: Course, shown: Progress | None, stopping: list[bool]) -> None:
        self._course, self._shown, self._stopping = course, shown, stopping
        self._first = course.optimiser.taken

    def stopping(self) -> bool:
        return bool(self._stopping)

    def stepped(self, history: History) -> None:
        steps = history.steps[self._first :]
        # The first two of a process compile.
        recent = steps[2:][-20:] or steps[-1:]
        seconds = sum(step.seconds for step in recent)
        speed = sum(step.tokens for step in recent) / max(seconds, 1e-9)
        total, taken = self._course.plan.schedule.steps, history.steps[-1].step
        left = (total - taken) * seconds / len(recent)
        loss = sum(step.loss for step in steps[-10:]) / len(steps[-10:])
        line = f"loss {loss:.4f}, {speed:.0f} tokens/s, {duration(left)} left"
        if self._shown:
            self._shown(line, taken, total)
        elif taken == total or taken % max(total // 20, 1) == 0:
            print(f"step {taken}/{total}: {line}", file=sys.stderr, flush=True)

    def looked(self, history: History) -> None:
        look = history.looks[-1]
        begin = "\r" + " " * 78 + "\r" if self._shown else ""
        print(
            f"{begin}held out after step {look.step}: loss {look.loss:.4f}",
            file=sys.stderr,
            flush=True,
        )


@contextmanager
def interruptions() -> Iterator[list[bool]]:
    """A list that Ctrl-C, or the end of the session, puts something into; a second one interrupts
    at once."""
    asked: list[bool] = []

    def ask(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def write_report(output: Path, tuning: Tuning, course: Course, seconds: float) -> dict[str, object]:
    """Write the log and the plot beside the adapter; returns what the log begins with."""
    from edgellm.training.loss_plot import plot

    history, best = course.history, course.history.best
    log, picture = (output.with_name(f"{output.name}.{end}") for end in ("log.json", "loss.png"))
    tokens = sum(step.tokens for step in history.steps)
    result: dict[str, object] = {
        "output": str(output),
        "model": tuning.base.path,
        "steps": course.optimiser.taken,
        "tokens": tokens,
        "seconds": round(seconds, 1),
        "loss": history.steps[-1].loss,
        "held_out_loss_before": history.looks[0].loss if history.looks else None,
        "held_out_loss": history.looks[-1].loss if history.looks else None,
        "best_held_out_loss": best.loss if best else None,
        "log": str(log),
        "plot": str(picture),
    }
    whole = {**result, "settings": tuning.identity(), **history.as_json()}
    with atomic_file.writing(log) as file:
        file.write(json.dumps(whole, indent=1).encode() + b"\n")
    with atomic_file.writing(picture) as file:
        file.write(plot(history))
    return result


def summary(output: Path, result: dict[str, Any]) -> str:
    held_out = ""
    if result["held_out_loss"] is not None:
        before, after = result["held_out_loss_before"], result["held_out_loss"]
        held_out = f", held out {before:.4f} before and {after:.4f} after"
    return (
        f"{output}: {result['steps']} steps, {duration(result['seconds'])}, loss "
        f"{result['loss']:.4f}{held_out}; see {result['plot']}"
    )


def duration(seconds: float) -> str:
    """For people: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
