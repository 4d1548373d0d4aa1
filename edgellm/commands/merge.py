"""edgellm merge: a model with adapters in its weights, as a file of its own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgellm import adapter_choice, progress
from edgellm.commands import options as shared
from edgellm.commands import quantize
from edgellm.errors import UsageError

EPILOG = """\
examples:
  edgellm merge model.gguf --lora pirate.gguf -o pirate-model.gguf
  edgellm merge model.gguf --lora pirate.gguf:0.5 --lora terse/ -o both.gguf

Each matrix is written in the type that it had, so quantised ones are quantised anew; the report
says what that costs. Merged into float weights and quantised afterwards (edgellm quantize), a model
loses less.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("model", type=Path, metavar="MODEL", help="a GGUF file")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="the GGUF file to write"
    )
    shared.add_adapters(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def main(options: argparse.Namespace) -> int:
    from edgellm import checkpoint, gguf
    from edgellm.gguf import rewriting

    given = shared.adapters(options)
    if not given:
        raise UsageError("no adapter; give one with --lora")
    base = checkpoint.open(options.model)
    if base.format != "gguf":
        raise UsageError(f"{options.model}: give the model's GGUF file; that's what is written")
    quantize.check_output(options.output)
    adapters = adapter_choice.load(given, base, any_base=options.lora_any_base)
    with progress.bar() as shown:
        reports = rewriting.merge(gguf.read(options.model), options.output, adapters, shown)
    quantize.show(reports, options.json)
    print(f"{options.output} written", file=sys.stderr)
    return 0
