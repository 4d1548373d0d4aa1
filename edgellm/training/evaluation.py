"""How well a model does what the default model is for: `python -m edgellm.training.evaluation`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from edgellm.runtime import load
from edgellm.training import trial
from edgellm.training.devices import Held
from edgellm.training.trial import Case

SEED = 7
LISTED = 40
"""Failures in a report, of each set that is made up anew."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edgellm.training.evaluation", description=__doc__
    )
    parser.add_argument("file", nargs="?", type=Path, help="a GGUF file; the default model if none")
    parser.add_argument("--count", type=int, default=300, help="conversations of each kind")
    parser.add_argument(
        "--requests",
        type=Path,
        action="append",
        default=[],
        help="a file of requests, written by hand; may be given again",
    )
    parser.add_argument("--report", type=Path, help="a JSON file for the result")
    options = parser.parse_args(arguments)
    made_up = sets(options.count) if options.count else {}
    written = {path.stem: trial.written(path) for path in options.requests}
    scores = trial.hold(load(options.file), {**made_up, **written})
    print("\n".join(trial.table(scores)))
    if options.report:
        report = {
            name: score.as_json(LISTED if name in made_up else None)
            for name, score in scores.items()
        }
        text = json.dumps(report, indent=1, ensure_ascii=False)
        options.report.write_text(text + "\n", encoding="utf-8")
    return 0


def sets(count: int) -> dict[str, Iterable[Case]]:
    """So many conversations of each kind that can be made up anew."""
    found = {"without tools": trial.without_tools(SEED, count)}
    for what, catalogued in (("composed", 0.0), ("catalogue", 1.0)):
        for name, held in (
            (what, Held()),
            (f"{what}, held-out phrasings", Held(phrasings=True)),
            (f"{what}, unseen devices", Held(devices=True)),
        ):
            found[name] = trial.made_up(SEED, count, held, catalogued)
    return found


if __name__ == "__main__":
    sys.exit(main())
