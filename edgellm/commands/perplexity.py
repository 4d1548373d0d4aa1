"""edgellm perplexity: how well a model foretells a text, as one number."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from edgellm import perplexity, progress, runtime
from edgellm.commands import options as shared

EPILOG = """\
examples:
  edgellm perplexity model.gguf book.txt
  edgellm perplexity model.gguf book.txt --lora pirate.gguf -c 256

The text is cut into windows of -c tokens (by default 512), of which the second halves count, as in
llama.cpp's perplexity; so the numbers can be compared. The lower, the better.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument(
        "model", metavar="MODEL", help="a GGUF file, a Hugging Face folder or a bundle"
    )
    parser.add_argument("text", type=Path, metavar="TEXT", help="a text file, in UTF-8")
    parser.add_argument(
        "-c", "--ctx-size", type=shared.positive, metavar="N", help="tokens of a window"
    )
    parser.add_argument(
        "--exact", action="store_true", help="float32 and exact dequantisation: the slow reference"
    )
    shared.add_device(parser)
    shared.add_running(parser)
    shared.add_adapters(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def main(options: argparse.Namespace) -> int:
    text = shared.read_text(options.text)
    with (
        progress.bar() as shown,
        runtime.load(
            options.model,
            exact=options.exact,
            context=options.ctx_size,
            threads=options.threads,
            kv=options.kv,
            device=options.device,
            adapters=shared.adapters(options),
            any_base=options.lora_any_base,
            progress=shown,
        ) as model,
    ):
        found = perplexity.measure(model, text, options.ctx_size, progress=shown)
    if options.json:
        print(json.dumps(asdict(found)))
    else:
        print(f"{found.value:.4f} +/- {found.error:.4f} over {found.tokens} tokens")
    return 0
