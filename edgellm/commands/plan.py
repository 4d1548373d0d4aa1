"""edgellm plan: whether a model fits a machine, what would, and how fast it would be."""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from edgellm import board, bundle, checkpoint, plan, runtime
from edgellm.commands import columns
from edgellm.commands import options as shared
from edgellm.errors import FitError, UsageError
from edgellm.memory import size
from edgellm.plan import Plan, Room

if TYPE_CHECKING:
    from edgellm.board_profile import Board
    from edgellm.checkpoint import ModelFile

PARTS = ("weights", "keys_values", "tables", "scratch", "vocabulary", "runtime")
EPILOG = """\
examples:
  edgellm plan model.gguf
  edgellm plan model.gguf --board raspberry-pi-zero-2-w -c 1024
  edgellm plan model.gguf --board raspberry-pi-5 --memory 2 -np 4 --kv int8 --json

Nothing is loaded: the model's header says it all. Without --board it's about this machine and what
it has left. Of a board that is sold with several sizes of memory, all are looked at, unless
--memory says which. Speeds are predictions: 85% of the speed at which memory is read, divided by
the bytes that a token needs; small models are slower, for they have other things to wait for.
exit status: 3 if it doesn't fit, unless --force is given
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    shared.add_model_file(parser)
    parser.add_argument("--board", metavar="NAME", help="one of `edgellm boards`")
    parser.add_argument(
        "--memory", type=gibibytes, metavar="GIB", help="how much the board has in all"
    )
    parser.add_argument(
        "-c", "--ctx-size", type=shared.positive, metavar="N", help="tokens of a conversation"
    )
    parser.add_argument(
        "-np",
        "--parallel",
        "--slots",
        type=shared.positive,
        default=1,
        metavar="N",
        help="conversations at once (default: 1)",
    )
    shared.add_kv(parser)
    shared.add_device(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.add_argument("--force", action="store_true", help="don't fail if it doesn't fit")


def gibibytes(text: str) -> float:
    """An argument type: a size of memory, more than 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}; give a number of GiB, more than 0")
    return number


def main(options: argparse.Namespace) -> int:
    path = shared.model_file(options)
    if bundle.is_bundle(path):
        file: ModelFile = bundle.open(path, inspect=True)
    else:
        file = checkpoint.open(path)
    profile = board.load(options.board) if options.board else board.detect().board
    found = plan.of(
        file,
        context=runtime.context_for(file, options.ctx_size),
        slots=options.parallel,
        kv=options.kv or plan.usual_kv(options.device),
    )
    spaces = rooms(options, profile)
    fitting = [room for room in spaces if found.total <= room.nbytes]
    room = fitting[0] if fitting else spaces[-1] if spaces else None
    others = list(plan.smaller(file, found, room)) if room and not fitting else []
    read = bandwidth(profile, here=not options.board)
    if options.json:
        import json

        print(json.dumps(described(file, found, spaces, others, read), indent=2))
    else:
        print(columns.aligned(table(found, read)))
        for line in verdict(found, spaces, others, read):
            print(line)
    return 0 if fitting or room is None or options.force else FitError.exit_status


def rooms(options: argparse.Namespace, profile: Board) -> list[Room]:
    """What there may be, ascending: this machine's memory, or a board's sizes; none where nobody
    knows."""
    if options.board is None and options.memory is None:
        here = plan.here()
        return [] if here is None else [here]
    title = profile.title if options.board else "a machine"
    sizes = profile.memory_gib if options.memory is None else (options.memory,)
    if not sizes:
        raise UsageError(
            f"the profile of {title} doesn't say how much memory it has; say so with --memory"
        )
    return [plan.of_board(title, gib) for gib in sizes]


def bandwidth(profile: Board, here: bool) -> tuple[float, str] | None:
    """How fast memory is read, in 10^9 bytes a second, and how that is known."""
    if profile.read_gb_s is not None:
        return profile.read_gb_s, f"{profile.title}, {profile.read_source}"
    if not here:
        return None
    from contextlib import closing

    from edgellm.bench.bandwidth import ReadBandwidth

    with closing(ReadBandwidth(os.cpu_count() or 1)) as memory:
        memory.measure()
        return memory.measure() / 1e9, "measured on this machine"


def table(found: Plan, read: tuple[float, str] | None) -> list[tuple[str, str]]:
    """The plan for people."""
    chats = f"{found.slots} chats of {found.context}" if found.slots > 1 else f"{found.context}"
    notes = {"keys_values": f"{chats} tokens, {found.kv}"}
    rows = [
        (
            part.replace("_", " and "),
            f"{size(getattr(found, part)):>10}  {notes.get(part, '')}".rstrip(),
        )
        for part in PARTS
    ]
    rows.append(("in all", f"{size(found.total):>10}"))
    if read is not None:
        rows.append(
            ("speed", f"{speed(found, read[0])}, predicted from {read[0]:.4g} GB/s ({read[1]})")
        )
    return [(name, shared.printable(text)) for name, text in rows]


def speed(found: Plan, read_gb_s: float) -> str:
    """What a plan promises, with an empty context and a full one."""
    rates = [found.tokens_per_second(read_gb_s, filled) for filled in (0, 1)]
    first, last = (f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}" for rate in rates)
    return f"about {first} tokens/s, {last} with a full context"


def verdict(
    found: Plan, spaces: list[Room], others: list[Plan], read: tuple[float, str] | None
) -> list[str]:
    """Whether it fits, and if not, what does."""
    fitting = [room for room in spaces if found.total <= room.nbytes]
    if not spaces:
        return ["whether that fits isn't known: the system doesn't tell how much memory it has"]
    if fitting:
        room = fitting[0]
        lines = [
            f"fits: {room.name} has {size(room.nbytes)}, {size(room.nbytes - found.total)} more"
        ]
        if room is not spaces[0]:
            lines.append(f"doesn't fit: {spaces[0].name} has {size(spaces[0].nbytes)}")
        return lines
    room = spaces[-1]
    lacking = size(found.total - room.nbytes)
    lines = [f"doesn't fit: {room.name} has {size(max(room.nbytes, 0))}, {lacking} less"]
    for other in others:
        fast = f", {speed(other, read[0])}" if read else ""
        lines.append(f"would fit: {other.flags(found)}: {size(other.total)}{fast}")
    return lines if others else [*lines, "nothing of this model would fit; a smaller one may"]


def described(
    file: ModelFile,
    found: Plan,
    spaces: list[Room],
    others: list[Plan],
    read: tuple[float, str] | None,
) -> dict[str, object]:
    """The same for machines; the speeds are predictions."""

    def one(each: Plan) -> dict[str, object]:
        rates = (
            [each.tokens_per_second(read[0], filled) for filled in (0, 1)] if read else [None] * 2
        )
        speeds = dict(
            zip(("predicted_tokens_per_second", "predicted_with_full_context"), rates, strict=True)
        )
        return asdict(each) | {"bytes": each.total} | speeds

    return {
        "file": file.path,
        **one(found),
        "read_gb_s": read[0] if read else None,
        "read_source": read[1] if read else None,
        "machines": [
            {
                "name": room.name,
                "bytes": room.nbytes,
                "fits": found.total <= room.nbytes,
                "margin": room.nbytes - found.total,
            }
            for room in spaces
        ],
        "would_fit": [one(each) | {"changes": each.flags(found)} for each in others],
    }
