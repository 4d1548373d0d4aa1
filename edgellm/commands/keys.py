"""edgellm keys: who may sign the bundles that are run here, and the keys that sign those built."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgellm import bounded_file, bundle, key_folder
from edgellm.commands import options as shared
from edgellm.errors import UsageError
from edgellm.key_folder import KeyFolder, PublicKey

EPILOG = """\
examples:
  edgellm keys                          the keys that are trusted here
  edgellm keys new anna                 a key that signs what is built here
  edgellm keys show anna > anna.pub     its public half, to be handed on
  edgellm keys trust anna.pub           on the other machine: run what anna has signed
  edgellm keys trust model.edge         the same, with the key that is in a bundle
  edgellm keys remove anna

A bundle holds native code, which may do whatever you may. Before you trust a key, compare its
fingerprint with the one that its owner tells you. What is built on this machine is trusted here.
"""

ACTIONS = ("list", "new", "show", "trust", "remove")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list", metavar="ACTION")
    parser.add_argument(
        "what", nargs="?", metavar="WHAT", help="a key's name; to trust: a file, or a key's line"
    )
    parser.add_argument("--name", metavar="NAME", help="call the key that is trusted so")


def main(options: argparse.Namespace) -> int:
    keys, what = KeyFolder(), options.what
    if options.name is not None and options.action != "trust":
        raise UsageError("--name goes with trust")
    match options.action:
        case "list":
            if what is not None:
                raise UsageError(f"{what!r}: list takes no name; did you mean show?")
            show_list(keys)
        case "new":
            print(line(keys.new(keys.default_name() if what is None else what)))
        case "show":
            show(keys, what)
        case "trust" if what is not None:
            for key in found(what, options.name):
                keys.trust(key)
                print("trusted:", line(key))
        case "remove" if what is not None:
            keys.remove(what)
        case action:
            raise UsageError(f"{action} what? edgellm keys --help has examples")
    return 0


def show_list(keys: KeyFolder) -> None:
    signing = {key.name for key in keys.signing()}
    for key in keys.trusted():
        print(line(key) + (", signs here" if key.name in signing else ""))


def show(keys: KeyFolder, name: str | None) -> None:
    """Print public keys as others need them: one, or all that sign here."""
    shown = [key for key in keys.trusted() if name == key.name] if name else keys.signing()
    if not shown:
        raise UsageError(f"there is no key {name!r}" if name else "no key signs here yet")
    for key in shown:
        print(key.text)


def line(key: PublicKey) -> str:
    return shared.printable(f"{key.name}  {key.fingerprint}")


def found(what: str, name: str | None) -> list[PublicKey]:
    """The keys in a bundle, in a file or in the text itself."""
    path = Path(what)
    if bundle.is_bundle(path):
        keys = bundle.signers(path)
        if not keys:
            raise UsageError(f"{what}: no key has signed it, only the machine that built it")
    elif what.startswith(key_folder.SCHEME):
        keys = [key_folder.parse(what, "the key")]
    else:
        text = bounded_file.read(path, key_folder.LARGEST_FILE).decode("utf-8", "replace")
        keys = [key_folder.parse(text, path)]
    if name is None:
        return keys
    if len(keys) > 1:
        raise UsageError(f"{what}: {len(keys)} keys have signed it; they keep their own names")
    return [PublicKey(name, keys[0].data)]
