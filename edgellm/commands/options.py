"""Options that several verbs share, spelled as llama.cpp's users know them."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from edgellm import folders
from edgellm.errors import UsageError
from edgellm.executor import KV
from edgellm.sampling import Sampling


def add_model_file(parser: argparse.ArgumentParser) -> None:
    """Which model."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a GGUF file, a Hugging Face folder or a bundle; without one, the built-in model",
    )
    parser.add_argument("-m", "--model", dest="model_option", metavar="MODEL", help="the same")


def add_device(parser: argparse.ArgumentParser) -> None:
    """What runs it."""
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="where the model runs (default: auto, the fastest that the board's profile allows)",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Which model, and how it is run."""
    add_model_file(parser)
    parser.add_argument(
        "-c", "--ctx-size", type=positive, metavar="N", help="tokens that a conversation may hold"
    )
    parser.add_argument(
        "--exact", action="store_true", help="float32 and exact dequantisation: the slow reference"
    )
    add_device(parser)


def add_running(parser: argparse.ArgumentParser) -> None:
    """What running it may take."""
    parser.add_argument(
        "-t",
        "--threads",
        type=positive,
        metavar="N",
        help="threads (default: one a big core, or as many as are fastest)",
    )
    add_kv(parser)
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="tell which device was chosen, and how fast it is",
    )
    parser.add_argument(
        "--force", action="store_true", help="run a model that doesn't fit into the memory, too"
    )


def add_adapters(parser: argparse.ArgumentParser) -> None:
    """LoRA files."""
    group = parser.add_argument_group("adapters")
    group.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:STRENGTH]",
        help="apply an adapter (LoRA): a GGUF file, or a folder that PEFT has saved; any number",
    )
    group.add_argument(
        "--lora-scaled",
        nargs=2,
        action="append",
        default=[],
        metavar=("FILE", "STRENGTH"),
        help="the same, as llama.cpp spells it",
    )
    group.add_argument(
        "--lora-any-base",
        action="store_true",
        help="take adapters that were made for another model of the same shape, too",
    )


def adapters(options: argparse.Namespace) -> list[str]:
    """The adapters that were given, each as FILE:STRENGTH."""
    return [*options.lora, *(f"{file}:{strength}" for file, strength in options.lora_scaled)]


def add_kv(parser: argparse.ArgumentParser) -> None:
    """How keys and values are kept."""
    parser.add_argument(
        "--kv",
        choices=get_args(KV),
        help="keep keys and values in 32 bits, 16 or 8, as far as the device can: the fewer, the "
        "less memory (default: the device's own, of the CPU f16)",
    )


def model_path(options: argparse.Namespace) -> str | None:
    """The model that was asked for, or None for the built-in one."""
    path: str | None = options.model_option or options.model
    if options.model_option and options.model and options.model_option != options.model:
        raise UsageError(f"two models: {options.model!r} and {options.model_option!r}; give one")
    if path is not None and not Path(path).exists():
        raise UsageError(
            f"{path}: no such file or folder; give a GGUF file, a model's folder or a bundle"
        )
    return path


def model_file(options: argparse.Namespace) -> str:
    """The file of the model that was asked for, the built-in one's included."""
    path = model_path(options)
    if path is None:
        from edgellm import runtime

        path = str(runtime.default_model())
    return path


def printable(text: str) -> str:
    """A file's own words, with what could steer the terminal left out."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def positive(text: str) -> int:
    """An argument type: a whole number from 1 on."""
    return whole(text, 1)


def tokens(text: str) -> int:
    """An argument type: a number of tokens; -1 is as many as fit."""
    return whole(text, -1)


def whole(text: str, least: int) -> int:
    """A whole number. Raises ArgumentTypeError, which argparse tells the user."""
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r}; give a whole number from {least} on")
    return number


def seconds(text: str) -> float:
    """An argument type: a time in seconds, 0 or more."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}; give a number of seconds, 0 or more")
    return number


def days(text: str) -> float:
    """An argument type: a time in days, more than 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}; give a number of days, more than 0")
    return number


def bias(text: str) -> tuple[int, float]:
    """An argument type: TOKEN+BIAS or TOKEN-BIAS, a token id and what is added to its logit."""
    for sign in "+-":
        token, found, amount = text.partition(sign)
        if found:
            return int(token), float(sign + amount)
    raise ValueError


def _names(text: str) -> tuple[str, ...]:
    """An argument type: names, separated by semicolons."""
    return tuple(name.strip() for name in text.split(";") if name.strip())


# (flags, field of Sampling, type, metavar, help); the default shown is Sampling's own.
_FLAGS: tuple[tuple[tuple[str, ...], str, Callable[[str], object], str, str], ...] = (
    (("--temp", "--temperature"), "temperature", float, "T", "0 takes the likeliest token"),
    (("--top-k",), "top_k", int, "N", "only the N likeliest tokens; 0: all"),
    (("--top-p",), "top_p", float, "P", "only the likeliest that together reach P; 1: all"),
    (("--min-p",), "min_p", float, "P", "only tokens at least P times as likely as the likeliest"),
    (("--typical", "--typical-p"), "typical_p", float, "P", "locally typical sampling; 1: off"),
    (("--repeat-penalty",), "repeat_penalty", float, "X", "against repeated tokens; 1: off"),
    (("--repeat-last-n",), "repeat_last_n", int, "N", "tokens that penalties look back over"),
    (("--presence-penalty",), "presence_penalty", float, "X", "once a token that occurred"),
    (("--frequency-penalty",), "frequency_penalty", float, "X", "times a token occurred"),
    (("--dry-multiplier",), "dry_multiplier", float, "X", "against repeated sequences; 0: off"),
    (("--dry-base",), "dry_base", float, "X", "DRY's growth with the length of the sequence"),
    (("--dry-allowed-length",), "dry_allowed_length", int, "N", "length that DRY lets pass"),
    (("--dry-penalty-last-n",), "dry_penalty_last_n", int, "N", "tokens DRY looks at; -1: all"),
    (("--mirostat",), "mirostat", int, "N", "2: Mirostat 2 instead of top-k and its kin; 0: off"),
    (("--mirostat-ent",), "mirostat_tau", float, "TAU", "Mirostat's target of surprise"),
    (("--mirostat-lr",), "mirostat_eta", float, "ETA", "Mirostat's rate of learning"),
    (("--samplers",), "samplers", _names, "A;B", "the filters and their order"),
)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """How tokens are drawn, and when to end."""
    defaults = {field.name: field.default for field in fields(Sampling)}
    group = parser.add_argument_group(
        "sampling", "Defaults give way to what the model's file advises."
    )
    group.add_argument(
        "-n",
        "--predict",
        "--n-predict",
        type=tokens,
        default=-1,
        metavar="N",
        help="the most tokens of an answer; -1: as many as the context holds",
    )
    group.add_argument(
        "-s", "--seed", type=int, metavar="SEED", help="the same seed draws the same tokens"
    )
    for flags, name, kind, metavar, text in _FLAGS:
        default = defaults[name]
        shown = ";".join(default) if isinstance(default, tuple) else default
        group.add_argument(
            *flags,
            dest=name,
            type=kind,
            metavar=metavar,
            help=f"{text} (default: {shown})",
        )
    group.add_argument(
        "--dry-sequence-breaker",
        dest="dry_sequence_breakers",
        action="append",
        metavar="TEXT",
        help="text that ends a sequence for DRY; any number, 'none' for none",
    )
    group.add_argument(
        "-l",
        "--logit-bias",
        dest="logit_bias",
        type=bias,
        action="append",
        metavar="TOKEN(+/-)BIAS",
        help="make a token likelier or less likely, e.g. 15043+1; any number",
    )


def sampling(options: argparse.Namespace, advice: Mapping[str, float] | None = None) -> Sampling:
    """What was given on the command line, else what the model advises, else the defaults.

    Raises UsageError as Sampling.
    """
    given: dict[str, Any] = dict(advice or {})
    for _, name, *_ in _FLAGS:
        if getattr(options, name) is not None:
            given[name] = getattr(options, name)
    if options.seed is not None and options.seed >= 0:
        given["seed"] = options.seed
    if options.dry_sequence_breakers is not None:
        given["dry_sequence_breakers"] = tuple(
            text for text in options.dry_sequence_breakers if text != "none"
        )
    if options.logit_bias is not None:
        given["logit_bias"] = dict(options.logit_bias)
    return Sampling(**given)


def add_conversation(parser: argparse.ArgumentParser) -> None:
    """How a conversation is put to the model."""
    group = parser.add_argument_group("conversation")
    group.add_argument("-sys", "--system-prompt", metavar="TEXT", help="the system's message")
    group.add_argument(
        "-r",
        "--reverse-prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="end the answer before this text; any number",
    )
    group.add_argument(
        "--context-shift",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="where an answer fills the context, give up the older half of it and go on, in place "
        "of ending the answer",
    )
    group.add_argument(
        "--keep",
        type=tokens,
        metavar="N",
        help="the first tokens that stay then; -1: all of the prompt (default: the system's "
        "message)",
    )
    group.add_argument(
        "--chat-template",
        metavar="NAME|JINJA",
        help="a named format (chatml, llama2, alpaca) or a template, in place of the model's",
    )
    group.add_argument(
        "--chat-template-file", type=Path, metavar="FILE", help="the same, from a file"
    )
    group.add_argument(
        "-no-cnv",
        "--no-conversation",
        action="store_true",
        help="no chat format: the model goes on with the text as it is",
    )


def add_history(parser: argparse.ArgumentParser) -> None:
    """Where devices' sessions outlive the process."""
    group = parser.add_argument_group("history")
    group.add_argument(
        "--history",
        metavar="DIR|off",
        help="keep devices' sessions in this folder, so that they outlive a restart (default: one "
        "of the model's name below sessions/ in the folder of edgellm's state); off: write nothing",
    )
    group.add_argument(
        "--history-days",
        type=days,
        default=30.0,
        metavar="N",
        help="days after its last question that a session is kept (default: 30)",
    )


def history_folder(options: argparse.Namespace) -> Path | None:
    """Where sessions are kept; None if they aren't. Raises UsageError where there is no home.

    Each model has a folder of its own, so that one user's services for two models don't meet.
    """
    if options.history == "off":
        return None
    if options.history:
        return Path(options.history)
    name = os.path.basename(os.path.abspath(model_file(options)))
    try:
        return folders.state() / "sessions" / name
    except UsageError as error:
        raise UsageError(f"{error}, or give --history a folder, or off") from error


def chat_template(options: argparse.Namespace) -> dict[str, str]:
    """`template` or `format` as `edgellm.render_chat` takes them, as far as given."""
    text: str | None = options.chat_template
    if options.chat_template_file is not None:
        if text is not None:
            raise UsageError("--chat-template and --chat-template-file exclude each other")
        text = read_text(options.chat_template_file)
    if text is None:
        return {}
    return {"template": text} if "{" in text else {"format": text.strip()}


def read_text(path: Path) -> str:
    """A text file's content. Raises UsageError if it cannot be read or isn't UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text") from error
