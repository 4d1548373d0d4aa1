"""edgellm bench: speed and memory of a model on this machine."""

from __future__ import annotations

import argparse

from edgellm import bench, progress
from edgellm.commands import options as shared
from edgellm.memory import size

EPILOG = """\
examples:
  edgellm bench
  edgellm bench model.gguf -p 128 -n 32 -r 3
  edgellm bench model.gguf --json > this-machine.json

pp512 is a prompt of 512 tokens, tg128 the generation of 128; both in tokens per second, mean and
deviation. The tokens are drawn from a fixed seed.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    shared.add_model(parser)
    parser.add_argument(
        "-p", "--n-prompt", type=count, default=512, metavar="N", help="tokens of the prompt"
    )
    parser.add_argument(
        "-n", "--n-gen", type=count, default=128, metavar="N", help="tokens to generate"
    )
    parser.add_argument(
        "-r", "--repetitions", type=shared.positive, default=5, metavar="N", help="of each test"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def count(text: str) -> int:
    """An argument type: a whole number from 0 on."""
    number = int(text)
    if number < 0:
        raise ValueError
    return number


def main(options: argparse.Namespace) -> int:
    with progress.bar() as shown:
        report = bench.measure(
            shared.model_path(options),
            prompt=options.n_prompt,
            generated=options.n_gen,
            repetitions=options.repetitions,
            context=options.ctx_size,
            exact=options.exact,
            device=options.device,
            progress=shown,
        )
    if options.json:
        import json

        print(json.dumps(report.as_dict(), indent=2))
    else:
        print(table(report))
    return 0


def table(report: bench.Report) -> str:
    """The report as a Markdown table, which a reader can paste."""
    about = f"{report.model} ({report.parameters / 1e6:.1f} M, {size(report.bytes)})"
    rows = [(one.test, f"{one.mean:.1f} +/- {one.deviation:.1f} tokens/s") for one in report.speeds]
    rows += [
        ("load", f"{report.load_s:.2f} s"),
        ("first token", f"{report.first_token_s:.3f} s"),
        ("peak memory", size(report.peak_bytes)),
    ]
    head = f"| {about}, {report.device}, {report.mode} | |\n|---|---:|"
    return "\n".join([head, *(f"| {name} | {value} |" for name, value in rows)])
