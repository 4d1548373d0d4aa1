"""edgellm boards: the boards that have a profile, and which of them this machine is."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm import board, plugins, processor
from edgellm.board import Board, Detected
from edgellm.commands import options as shared
from edgellm.commands.columns import aligned
from edgellm.errors import BackendError, UsageError
from edgellm.memory import size

if TYPE_CHECKING:
    from edgellm.executor import Backend, Target

EPILOG = """\
examples:
  edgellm boards                              the boards that have a profile
  edgellm boards show raspberry-pi-5          what a profile says
  edgellm boards detect                       which one this machine is, and why
  edgellm boards detect --sysroot /mnt/card   which one another is, by its /proc and /sys there
  edgellm build model.gguf --board rk3588     compile for one

Profiles of your own, NAME.toml in ~/.config/edgellm/boards, come before edgellm's of that name.
"""

ACTIONS = ("list", "show", "detect")
DEVICE = "cpu"
"""Whose target a board's processor decides."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list", metavar="ACTION")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the board to show")
    parser.add_argument(
        "--sysroot",
        type=Path,
        metavar="DIR",
        help="detect: look at the /proc and /sys below this folder, at nothing of this machine's",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(options: argparse.Namespace) -> int:
    root: Path | None = options.sysroot
    if options.action == "show" and options.name is None:
        raise UsageError("show which board? edgellm boards lists them")
    if options.action != "show" and options.name is not None:
        raise UsageError(f"{options.name!r}: {options.action} takes no name; did you mean show?")
    if root is not None and options.action != "detect":
        raise UsageError("--sysroot goes with detect")
    if root is not None and not root.is_dir():
        raise UsageError(f"--sysroot: {root} is no folder")
    match options.action:
        case "list":
            profiles = [board.load(name) for name in board.names()]
            told(options, [about(profile) for profile in profiles], listed(profiles))
        case "show":
            profile = board.load(options.name)
            told(options, about(profile), shown(facts(profile)))
        case "detect":
            found = board.detect(processor.ROOT if root is None else root)
            told(options, about_detected(found), shown(facts_detected(found)))
    return 0


def told(options: argparse.Namespace, data: object, text: str) -> None:
    """Print one of them."""
    if options.json:
        import json

        text = json.dumps(data, indent=2, ensure_ascii=False)
    print(text)


def about(profile: Board) -> dict[str, object]:
    """The profile for machines, with the CPU backend's target."""
    return {**asdict(profile), "target": target_name(profile)}


def about_detected(found: Detected) -> dict[str, object]:
    return {**asdict(found), "target": target_name(found.board)}


def target(profile: Board) -> Target | None:
    """What the CPU backend compiles for; None where it has nothing for the board's processor."""
    backend: Backend | None = plugins.ask("backend", device=DEVICE)
    try:
        return None if backend is None else backend.target(board=profile)
    except BackendError:
        return None


def target_name(profile: Board) -> str | None:
    found = target(profile)
    return None if found is None else found.name


def listed(profiles: list[Board]) -> str:
    rows = [("NAME", "TARGET", "BOARD")]
    rows += [(one.name, target_name(one) or "-", shared.printable(one.title)) for one in profiles]
    return aligned(rows)


def facts_detected(found: Detected) -> dict[str, str]:
    built = target(found.board)
    memory = "" if found.memory_bytes is None else size(found.memory_bytes)
    return {
        "board": found.board.name,
        "model": found.model,
        "because": "; ".join(found.reasons),
        "notice": "; ".join(found.notices),
        "memory here": memory,
        **facts(found.board),
        # Of the hundred that a processor may list.
        "features": " ".join(built.features if built else found.board.cpu.features),
    }


def facts(profile: Board) -> dict[str, str]:
    """What a profile says, for people."""
    cpu = profile.cpu
    gib = ", ".join(f"{count:g}" for count in profile.memory_gib)
    read = f"{profile.read_gb_s:g} GB/s: {profile.read_source}" if profile.read_gb_s else ""
    return {
        "title": profile.title,
        "models": ", ".join(profile.models),
        "system": profile.system,
        "processor": cpu.machine,
        "cores": "; ".join(cores(part) for part in cpu.clusters),
        "target": target_name(profile) or "none: edgellm has no kernels for this processor",
        "features": " ".join(cpu.features),
        "memory": f"{gib} GiB" if gib else "",
        "reads memory": read,
        "pages": f"{profile.page_kib} KiB" if profile.page_kib else "",
        "serial ports": ", ".join(profile.uarts),
        "thermal zones": ", ".join(profile.thermal_zones),
        "throttling by": ", ".join(profile.throttle),
        "backends": ", ".join(profile.backends),
        "threads": str(profile.threads or "one a core"),
        "context": str(profile.context or "the model's own"),
        "quantisation": profile.quantisation,
        "notes": profile.notes,
    }


def cores(part: processor.Cluster) -> str:
    """For people: "4 x Cortex-A76 at up to 2400 MHz"."""
    clock = f" at up to {part.mhz} MHz" if part.mhz else ""
    return f"{len(part.cpus)} x {part.core or 'core'}{clock}"


def shown(facts: dict[str, str]) -> str:
    return aligned([(name, shared.printable(text)) for name, text in facts.items() if text])
