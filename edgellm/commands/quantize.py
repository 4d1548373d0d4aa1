"""edgellm quantize: a GGUF file in, one with smaller weights out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm import mixture, perplexity, progress, runtime
from edgellm.commands import options as shared
from edgellm.errors import UsageError
from edgellm.executor import TinygradBackend
from edgellm.gguf.rewriting import Report
from edgellm.memory import size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgellm.perplexity import Perplexity

EPILOG = """\
examples:
  edgellm quantize model-f16.gguf model-q4.gguf Q4_K_M
  edgellm quantize model-f16.gguf model-q4.gguf Q4_0 --calibrate talks.txt --text book.txt

The types are llama.cpp's, so are the mixtures: what decides most is kept finer. With --calibrate
the model reads a text first, and errors in weights that matter there count more (llama.cpp's
imatrix). The report names each tensor with the error of its values, root mean square in that of the
values; --text adds the perplexity before and after.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("input", type=Path, metavar="IN.gguf", help="a model with float weights")
    parser.add_argument("output", type=Path, metavar="OUT.gguf", help="the file to write")
    parser.add_argument(
        "type", type=str.upper, choices=mixture.FILE_TYPES, metavar="TYPE", help=_types()
    )
    parser.add_argument(
        "--calibrate", type=Path, metavar="FILE", help="a text like those that it's to be used for"
    )
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="measure the perplexity of this text, too"
    )
    parser.add_argument(
        "--allow-requantize",
        action="store_true",
        help="take weights that are quantised already, and lose more",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def _types() -> str:
    return f"one of {', '.join(mixture.FILE_TYPES)}"


def main(options: argparse.Namespace) -> int:
    from edgellm import gguf
    from edgellm.gguf import rewriting

    text = None if options.text is None else shared.read_text(options.text)
    file = gguf.read(options.input)
    check_output(options.output)
    before = None if text is None else measured(options.input, text)
    weights = None if options.calibrate is None else importance(options.input, options.calibrate)
    with progress.bar() as shown:
        reports = rewriting.quantise(
            file,
            options.output,
            options.type,
            weights,
            requantise=options.allow_requantize,
            progress=shown,
        )
    after = None if text is None else measured(options.output, text)
    show(reports, options.json, before, after)
    print(f"{options.output} written", file=sys.stderr)
    return 0


def check_output(path: Path) -> None:
    """Raise UsageError, before the work, where a file can't be written there."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: give the name of a file in a folder that is there")


def importance(model: Path, text: Path) -> Mapping[str, NDArray[np.float32]]:
    """How much each column of the model's matrices is used for a text."""
    backend = runtime.backend("cpu")
    if not isinstance(backend, TinygradBackend):
        raise UsageError(f"the {backend.name} backend can't read a text for --calibrate")
    backend.prepare()
    from edgellm import checkpoint
    from edgellm import importance as importances

    _, vocabulary = runtime.read(model, exact=True)
    with progress.bar() as shown:
        return importances.measure(
            checkpoint.open(model), vocabulary, shared.read_text(text), progress=shown
        )


def measured(path: Path, text: str) -> Perplexity:
    with progress.bar() as shown, runtime.load(path, progress=shown) as model:
        return perplexity.measure(model, text, progress=shown)


def show(
    reports: Sequence[Report],
    as_json: bool,
    before: Perplexity | None = None,
    after: Perplexity | None = None,
) -> None:
    """Print what became of the tensors."""
    sums = [
        sum(report.nbytes_before for report in reports),
        sum(report.nbytes for report in reports),
    ]
    if as_json:
        about: dict[str, object] = {
            "tensors": [asdict(report) for report in reports],
            "bytes_before": sums[0],
            "bytes": sums[1],
        }
        if before is not None and after is not None:
            about |= {"perplexity_before": asdict(before), "perplexity": asdict(after)}
        print(json.dumps(about, indent=2))
        return
    changed = [report for report in reports if report.error or report.before != report.after]
    width = max((len(report.name) for report in changed), default=0)
    for report in changed:
        shape = " x ".join(map(str, report.shape))
        kinds = (
            report.after if report.before == report.after else f"{report.before} to {report.after}"
        )
        print(
            f"{shared.printable(report.name):{width}}  {shape:>15}  {kinds:15}"
            f"  {size(report.nbytes):>10}  error {100 * report.error:.3f} %"
        )
    print(f"{len(changed)} of {len(reports)} tensors changed: {size(sums[0])} to {size(sums[1])}")
    if before is not None and after is not None:
        change = 100 * (after.value / before.value - 1)
        print(
            f"perplexity {before.value:.4f} to {after.value:.4f} ({change:+.2f} %), over "
            f"{after.tokens} tokens"
        )
