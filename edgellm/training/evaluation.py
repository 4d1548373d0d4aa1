"""How well a model does what the default model is for: `python -m edgellm.training.evaluation`.

Conversations without a device are scored by their answers, those with one by the calls of its tools
(`edgellm.training.trial`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from edgellm.runtime import Model, load
from edgellm.training import prompt_form, trial
from edgellm.training.devices import Held
from edgellm.training.dialogues import conversation
from edgellm.training.dialogues.rows import encode
from edgellm.training.trial import Case

SEED = 7
LISTED = 40
"""Failures in a report, of each set that is made up anew."""


@dataclass
class Score:
    """Answers that equal the wanted ones token for token, as greedy decoding would give them."""

    answers: int = 0
    exact: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)
    """The question, the wanted answer and the given one."""

    @property
    def share(self) -> float:
        return self.exact / max(self.answers, 1)


def evaluate(model: Model, talks: Iterable[list[tuple[str, str]]]) -> Score:
    """Score every answer of the talks, each after the wanted course of the talk before it.

    Where the likeliest token is the wanted one all along, greedy decoding gives the wanted answer;
    of a failure, the given answer is right up to its first wrong token.
    """
    score = Score()
    for turns in talks:
        parts = encode(turns, model.tokenizer)
        ids = [token for part in parts for token in part]
        best = model.logits(ids).argmax(-1)
        end = 0
        for (question, answer), prompt, wanted in zip(turns, parts[::2], parts[1::2], strict=True):
            begin = end + len(prompt)
            end = begin + len(wanted)
            given = best[begin - 1 : end - 1].tolist()
            score.answers += 1
            score.exact += given == wanted
            if given != wanted:
                text = b"".join(model.tokenizer.piece(token) for token in given)
                score.failures.append(
                    {"question": question, "wanted": answer, "given": text.decode(errors="replace")}
                )
    return score


def talks(seed: int, count: int, held_out: bool) -> Iterable[list[tuple[str, str]]]:
    """Conversations of one to three scenes."""
    rng = Random(seed)
    return (conversation(rng, rng.randint(1, 3), held_out) for _ in range(count))


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
    report: dict[str, object] = {}
    model = load(options.file)
    if model.file.template == prompt_form.TALKS:
        for name, held_out in (("talks", False), ("held-out talks", True)):
            score = evaluate(model, talks(SEED, options.count, held_out))
            print(f"{name}: {score.exact} of {score.answers} answers exact ({score.share:.1%})")
            report[name] = {
                "answers": score.answers,
                "exact": round(score.share, 4),
                "failures": score.failures[:LISTED],
            }
    made_up = sets(options.count)
    written = {path.stem: trial.written(path) for path in options.requests}
    scores = trial.hold(model, {**made_up, **written})
    print("\n".join(trial.table(scores)))
    report |= {
        name: score.as_json(LISTED if name in made_up else None) for name, score in scores.items()
    }
    if options.report:
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
