"""edgellm info: what is in a model file, from its header alone, or in a bundle."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from edgellm import adapter, bundle, checkpoint, plan, runtime
from edgellm.chat import for_model
from edgellm.commands import options as shared
from edgellm.commands.columns import aligned
from edgellm.memory import size
from edgellm.signing import LOCAL

if TYPE_CHECKING:
    from edgellm.bundle import Bundle
    from edgellm.checkpoint import Checkpoint, ModelFile

EPILOG = """\
examples:
  edgellm info model.gguf
  edgellm info model.gguf --ctx-size 2048 --json
  edgellm info model.edge
  edgellm info adapter.gguf
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    shared.add_model(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def main(options: argparse.Namespace) -> int:
    path = shared.model_file(options)
    about: dict[str, object]
    if (said := adapter.about(path)) is not None:
        about = {"format": "adapter", **asdict(said)}
    elif bundle.is_bundle(path):
        about = describe_bundle(bundle.open(path, inspect=True), options.ctx_size)
    else:
        about = describe_checkpoint(checkpoint.open(path), options.ctx_size)
    if options.json:
        import json

        print(json.dumps(about, indent=2, ensure_ascii=False))
    else:
        print(table(about))
    return 0


def describe_checkpoint(opened: Checkpoint, context: int | None = None) -> dict[str, object]:
    """All that `edgellm info` shows of a model file, as plain values; `context` is by default what
    `load` takes."""
    context = runtime.context_for(opened, context)
    return describe(opened) | {
        "memory": {
            "context": context,
            "bytes": plan.of(opened, context=context).total,
            "bytes_exact": plan.reference(opened, context=context).total,
        }
    }


def describe_bundle(opened: Bundle, context: int | None = None) -> dict[str, object]:
    """The same of a bundle, which tells who has built it, from what and for what."""
    context = runtime.context_for(opened, context)
    tensors = opened.tensors.values()
    formats = Counter(tensor.format for tensor in tensors)
    return describe(opened) | {
        "packed": dict(sorted(formats.items())),
        "notes": sorted({tensor.note for tensor in tensors if tensor.note}),
        "backend": opened.backend,
        "target": {"name": opened.target.name, "machine": opened.target.machine}
        | {"features": list(opened.target.features)},
        "built": asdict(opened.built),
        "built_from": asdict(opened.source),
        "signed_by": [{"name": key.name, "fingerprint": key.fingerprint} for key in opened.signers],
        "trusted": opened.voucher or None,
        "memory": {"context": context, "bytes": plan.of(opened, context=context).total},
    }


def describe(opened: ModelFile) -> dict[str, object]:
    """What both have."""
    config, tokens = opened.config, opened.tokenizer
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
    }


def table(about: dict[str, object]) -> str:
    """The description for people: one line a fact, what the file doesn't say left out."""
    lines: list[tuple[str, str]] = []
    for name, value in about.items():
        if value in ("", None, []) and name not in ("licence", "signed_by", "trusted"):
            continue
        lines.append((name.replace("_", " "), shared.printable(_shown(name, value))))
    return aligned(lines)


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
            exact = value.get("bytes_exact")
            return f"about {size(value['bytes'])} with a context of {value['context']}" + (
                f", exact mode {size(exact)}" if exact else ""
            )
        case "target", dict():
            return f"{value['name']}: {value['machine']} with {', '.join(value['features'])}"
        case "built", dict():
            return f"{value['date']} by edgellm {value['edgellm']} with {value['compiler']}"
        case "built_from", dict():
            return f"{value['file']}, {size(value['nbytes'])}, SHA-256 {value['sha256']}"
        case "signed_by", list():
            signers = [f"{key['name']} ({key['fingerprint']})" for key in value]
            return ", ".join(signers) or "the machine that built it alone"
        case "trusted", None:
            return "no, so it isn't run; edgellm keys --help tells more"
        case "trusted", str():
            return "built on this machine" if value == LOCAL else f"by the key {value}"
        case _, dict():
            return ", ".join(f"{key} {one}" for key, one in value.items())
        case _, list():
            return ", ".join(map(str, value))
    return str(value)
