"""edgellm info: what is in a model file, from its header alone."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from typing import TYPE_CHECKING

from edgellm import checkpoint, memory, runtime
from edgellm.chat import for_model
from edgellm.commands import options as shared
from edgellm.memory import size

if TYPE_CHECKING:
    from edgellm.checkpoint import Checkpoint

EPILOG = """\
examples:
  edgellm info model.gguf
  edgellm info model.gguf --ctx-size 2048 --json
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    shared.add_model(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def main(options: argparse.Namespace) -> int:
    opened = checkpoint.open(shared.model_file(options))
    about = describe(opened, options.ctx_size)
    if options.json:
        import json

        print(json.dumps(about, indent=2, ensure_ascii=False))
    else:
        print(table(about))
    return 0


def describe(opened: Checkpoint, context: int | None = None) -> dict[str, object]:
    """All that `edgellm info` shows, as plain values; `context` is by default what `load` takes."""
    config, tokens = opened.config, opened.tokenizer
    context = runtime.context_for(opened, context)
    tensors = opened.tensors.values()
    types = Counter(tensor.type for tensor in tensors)
    sizes = {name: sum(t.nbytes for t in tensors if t.type == name) for name in types}
    said = opened.provenance
    return {
        "file": opened.path,
        "format": opened.format,
        "name": said.name,
        "licence": said.licence,
        "author": said.author,
        "source": said.source,
        "architecture": config.architecture,
        "parameters": sum(math.prod(tensor.shape) for tensor in tensors),
        "bytes": sum(sizes.values()),
        "types": {name: {"tensors": types[name], "bytes": sizes[name]} for name in sorted(types)},
        "layers": len(config.layers),
        "width": config.dim,
        "heads": config.heads,
        "kv_heads": sorted({layer.kv_heads for layer in config.layers if layer.kv_heads}),
        "head_width": config.head_dim,
        "feed_forward": config.hidden,
        "context": config.context,
        "vocabulary": config.vocab,
        "tokenizer": None
        if tokens is None
        else {"model": tokens.model, "pre": tokens.pre, "bos": tokens.bos, "eos": tokens.eos},
        "chat": for_model(opened).name,
        "template": opened.template,
        "memory": {
            "context": context,
            "bytes": memory.needed(opened, context),
            "bytes_exact": memory.needed(opened, context, exact=True),
        },
    }


def table(about: dict[str, object]) -> str:
    """The description for people: one line a fact, what the file doesn't say left out."""
    lines: list[tuple[str, str]] = []
    for name, value in about.items():
        if value in ("", None) and name != "licence":
            continue
        text = _shown(name, value)
        # A file's own words could steer the terminal.
        text = "".join(letter if letter.isprintable() else "?" for letter in text)
        lines.append((name.replace("_", " "), text))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in lines)


def _shown(name: str, value: object) -> str:
    match name, value:
        case "licence", "":
            return "not stated"
        case "bytes", int():
            return size(value)
        case "parameters", int():
            return f"{value:,}"
        case "types", dict():
            return ", ".join(
                f"{kind} {one['tensors']} ({size(one['bytes'])})" for kind, one in value.items()
            )
        case "tokenizer", dict():
            return ", ".join(f"{key} {one}" for key, one in value.items() if one not in (None, ""))
        case "chat", "template":
            return "by the file's own template"
        case "chat", "none":
            return "no: continues text, unless --chat-template names a format"
        case "chat", str():
            return f"by the format {value}, guessed from name and vocabulary"
        case "template", str():
            return f"{len(value)} characters"
        case "memory", dict():
            return (
                f"about {size(value['bytes'])} with a context of {value['context']}"
                f", exact mode {size(value['bytes_exact'])}"
            )
        case _, list():
            return ", ".join(map(str, value))
    return str(value)
