"""edgellm build: a model compiled and packed into a bundle, for this machine or another."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from edgellm import backend_choice, bundle, bundle_cache, progress, runtime
from edgellm.backend_choice import AUTO
from edgellm.commands import options as shared
from edgellm.errors import UsageError
from edgellm.key_folder import KeyFolder, PublicKey, can_check
from edgellm.memory import size

EPILOG = """\
examples:
  edgellm build model.gguf -o model.edge
  edgellm build model.gguf --board raspberry-pi-5 -o model-pi5.edge
  edgellm build model.gguf --target avx2 -o model.edge --sign anna
  edgellm build --list

A bundle needs neither a compiler nor tinygrad where it runs: `edgellm chat model.edge`. It holds
native code, so other machines run it only if they trust the key that signed it (edgellm keys).
`edgellm chat model.gguf` and its like build one too, into the cache, which keeps the 16 GiB that
were used last; --list shows it.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    shared.add_model_file(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the bundle to write")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--board", metavar="NAME", help="for a board: raspberry-pi-5")
    place.add_argument(
        "--target", metavar="NAME", help="for a kind of processor: avx2 (default: this one)"
    )
    parser.add_argument("--sign", metavar="KEY", help="sign with this key (default: the first)")
    shared.add_device(parser)
    cache = parser.add_mutually_exclusive_group()
    cache.add_argument("--list", action="store_true", help="list the bundles in the cache")
    cache.add_argument("--clear-cache", action="store_true", help="remove them")


def main(options: argparse.Namespace) -> int:
    if options.list:
        return show()
    if options.clear_cache:
        count = bundle_cache.clear()
        print(f"{count} bundles removed from {bundle_cache.folder()}", file=sys.stderr)
        return 0
    path = Path(shared.model_file(options))
    if bundle.is_bundle(path):
        raise UsageError(f"{path}: that is a bundle; give the model's own file")
    backend = runtime.backend(device(options), here=False)
    target = backend.target(options.target, options.board)
    output: Path = options.output or Path(f"{path.stem}-{target.name}.edge")
    if output.is_dir() or (output.exists() and output.samefile(path)):
        raise UsageError(f"{output}: give the name of the bundle to write")
    keys = KeyFolder()
    signer = key_to_sign(keys, options.sign)

    from edgellm import bundle_builder, checkpoint

    opened = checkpoint.open(path)
    with progress.bar() as shown:
        bundle_builder.build(
            opened,
            output,
            backend,
            target,
            keys,
            signer=None if signer is None else signer.name,
            progress=shown,
        )
    print(f"{output}: {size(output.stat().st_size)}, for {target.name}; {told(signer)}")
    return 0


def device(options: argparse.Namespace) -> str:
    """The device to build for: of another board the first that its profile allows, unless said."""
    wanted = backend_choice.wanted(options.device)
    if wanted != AUTO or options.board is None:
        return wanted
    from edgellm import board

    there = backend_choice.installed()
    return next((name for name in board.load(options.board).backends if name in there), wanted)


def key_to_sign(keys: KeyFolder, name: str | None) -> PublicKey | None:
    """The key of that name, else the first one, else one made now if that is possible."""
    found = {key.name: key for key in keys.signing()}
    if name is not None:
        if name not in found:
            raise UsageError(f"no key {name!r} signs here; make it: edgellm keys new {name}")
        return found[name]
    if found:
        return next(iter(found.values()))
    return keys.new(keys.default_name()) if can_check() else None


def told(signer: PublicKey | None) -> str:
    if signer is None:
        return "signed for this machine alone; for others: pip install 'edgellm[signing]'"
    return f"signed by {signer.name} ({signer.fingerprint})"


def show() -> int:
    """List the cache, that used last first."""
    total = 0
    for entry in bundle_cache.entries():
        total += entry.nbytes
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        about = bundle_cache.describe(entry.path)
        print(f"{used}  {size(entry.nbytes):>10}  {shared.printable(about)}")
    print(f"{size(total)} in {bundle_cache.folder()}", file=sys.stderr)
    return 0
