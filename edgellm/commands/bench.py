"""edgellm bench: speed and memory of a model on this machine."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgellm import bench
from edgellm.commands import options as shared
from edgellm.memory import size

EPILOG = """\
examples:
  edgellm bench
  edgellm bench model.gguf -p 128 -n 32 -r 3 -t 1,2
  edgellm bench model.gguf -p 0 -n 64 -d 0,2048 -b 1,4 --vs llama.cpp
  edgellm bench model.gguf --json > this-machine.jsonl

-p, -n, -d, -b and -t take several numbers, with commas between them: each combination is a row. All
figures are medians; speeds are in tokens per second, over all chats of a row together. "start" is
the time from the start of a process to its first token. "read" is the share at which decoding
reads weights of the bandwidth that this machine's memory has. The tokens are drawn from a fixed
seed. --json prints one object a row, every repeat in it.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    shared.add_model(parser)
    for flags, kind, default, text in (
        (("-p", "--n-prompt"), counts, 512, "tokens of the prompt, or 0 (default: 512)"),
        (("-n", "--n-gen"), counts, 128, "tokens to generate, or 0 (default: 128)"),
        (("-d", "--n-depth"), counts, 0, "tokens in the context before (default: 0)"),
        (("-b", "--batch"), positives, 1, "chats at once (default: 1)"),
        (("-t", "--threads"), positives, 0, "threads (default: one a core)"),
    ):
        parser.add_argument(*flags, type=kind, default=[default], metavar="N", help=text)
    parser.add_argument(
        "-r", "--repetitions", type=shared.positive, default=5, metavar="N", help="of each test"
    )
    shared.add_kv(parser)
    parser.add_argument(
        "--vs", metavar="PEER", help="compare with a peer on the same file: llama.cpp"
    )
    parser.add_argument(
        "--peer-python",
        default=sys.executable,
        metavar="PATH",
        help="the Python that has the peer's package llama-cpp-python (default: this one)",
    )
    parser.add_argument(
        "-fa",
        "--flash-attn",
        choices=("auto", "on", "off"),
        default="auto",
        help="flash attention in llama.cpp (default: auto)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object a row")


def counts(text: str) -> list[int]:
    """An argument type: whole numbers from 0 on, with commas between them."""
    return [shared.whole(number, 0) for number in text.split(",")]


def positives(text: str) -> list[int]:
    """An argument type: whole numbers from 1 on, with commas between them."""
    return [shared.positive(number) for number in text.split(",")]


def main(options: argparse.Namespace) -> int:
    rows = bench.measure(
        shared.model_path(options),
        tests(options),
        repetitions=options.repetitions,
        context=options.ctx_size,
        exact=options.exact,
        kv=options.kv,
        device=options.device,
        versus=options.vs,
        peer_python=options.peer_python,
        flash=options.flash_attn,
    )
    for line in json_lines(rows) if options.json else table(rows):
        print(line, flush=True)
    return 0


def tests(options: argparse.Namespace) -> list[bench.Test]:
    """Every combination of what was asked for."""
    names = ("threads", "batch", "depth", "prompt", "generate")
    values = (options.threads, options.batch, options.n_depth, options.n_prompt, options.n_gen)
    return [
        bench.Test(**dict(zip(names, combination, strict=True)))
        for combination in itertools.product(*values)
    ]


def json_lines(rows: Iterable[bench.Row]) -> Iterator[str]:
    return (json.dumps(row.as_dict()) for row in rows)


HEADS = {
    "model": "---",
    "type": "---",
    "threads": "---:",
    "chats": "---:",
    "depth": "---:",
    "prefill": "---:",
    "decode": "---:",
    "start": "---:",
    "peak memory": "---:",
    "read": "---:",
}


def table(rows: Iterable[bench.Row]) -> Iterator[str]:
    """The rows of a Markdown table, which a reader can paste; beside each figure how many times
    the peer's it is."""
    peer, heat = None, []
    for index, row in enumerate(rows):
        if index == 0:  # once nothing is in the way of the first
            yield _line(HEADS)
            yield _line(HEADS.values())
        test, ours, peer = row.test, row.ours, row.peer
        share = row.read_share
        heat.append(_heat(row))
        yield _line(
            (
                f"{Path(row.file).name} ({row.parameters / 1e6:.1f} M)",
                _type(row),
                str(test.threads),
                str(test.batch),
                str(test.depth),
                _speed(row, "prefill_tok_s", test.prompt),
                _speed(row, "decode_tok_s", test.generate),
                f"{ours.first_token_s:.2f} s" + _times(row, "first_token_s"),
                size(ours.peak_rss_bytes) + _times(row, "peak_rss_bytes"),
                "" if share is None else f"{share:.0%} of {row.read_gb_s:.1f} GB/s",
            )
        )
    if any(heat):
        yield ""
        yield "The processor meanwhile, row by row: " + "; ".join(one or "-" for one in heat) + "."
    if peer is not None:
        yield ""
        yield f"In brackets: times the figure of {peer}, measured in turns on the same file."


def _heat(row: bench.Row) -> str:
    """How hot it was, and whether that or the supply made it slower."""
    degrees = "" if row.temperature_c is None else f"{row.temperature_c:.0f} °C"
    return ", ".join(
        filter(None, (degrees, "" if row.throttled in (None, "no") else row.throttled))
    )


def _type(row: bench.Row) -> str:
    exact = ", exact" if row.mode == "exact" else ""
    return row.type + exact + (f", KV {row.kv}" if row.kv else "")


def _speed(row: bench.Row, name: str, tokens: int) -> str:
    speed = getattr(row.ours, name)
    return (
        ""
        if speed is None
        else f"{speed:,.{1 if speed < 100 else 0}f}{_times(row, name)} /{tokens}"
    )


def _times(row: bench.Row, name: str) -> str:
    ratio = row.ratio(name)
    return "" if ratio is None else f" ({ratio:.2f} x)"


def _line(cells: Iterable[str]) -> str:
    # A file's own words could steer the terminal.
    shown = ("".join(c if c.isprintable() and c != "|" else "?" for c in cell) for cell in cells)
    return f"| {' | '.join(shown)} |"
