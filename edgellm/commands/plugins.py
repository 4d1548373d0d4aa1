"""edgellm plugins: what is installed, of which kind, and what it hooks into."""

from __future__ import annotations

import argparse

from edgellm import plugins
from edgellm.commands.columns import aligned
from edgellm.hookspecs import KINDS

EPILOG = """\
examples:
  edgellm plugins
  edgellm plugins --kind channel --json
  EDGELLM_PLUGINS=console,socket edgellm plugins --kind channel
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("--kind", choices=list(KINDS), help="only plugins of this kind")
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def main(options: argparse.Namespace) -> int:
    kinds = [options.kind] if options.kind else list(KINDS)
    listed = [about for kind in kinds for about in plugins.describe(kind)]
    if options.json:
        import json

        print(json.dumps([about.__dict__ for about in listed], indent=2))
        return 0
    rows = [("NAME", "VERSION", "KIND", "HOOKS")]
    rows += [(about.name, about.version, about.kind, ", ".join(about.hooks)) for about in listed]
    print(aligned(rows))
    return 0
