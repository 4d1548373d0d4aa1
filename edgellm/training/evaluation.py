"""How well a model answers held-out dialogues: `python -m edgellm.training.evaluation [MODEL]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from edgellm.runtime import Model, load
from edgellm.training.dialogues import conversation
from edgellm.training.dialogues.rows import encode

SEED = 7


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
    parser.add_argument("--report", type=Path, help="a JSON file for the result")
    options = parser.parse_args(arguments)
    report: dict[str, object] = {}
    with load(options.file) as model:
        for name, held_out in (("seen words", False), ("held out", True)):
            score = evaluate(model, talks(SEED, options.count, held_out))
            print(f"{name}: {score.exact} of {score.answers} answers exact ({score.share:.1%})")
            for failure in score.failures[:20]:
                print("  {question}\n    wanted: {wanted}\n    given:  {given}".format(**failure))
            report[name] = {
                "answers": score.answers,
                "exact": score.exact,
                "share": round(score.share, 4),
            }
    if options.report:
        options.report.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
