"""The process that checks run in, so that a crash or a hang ends it and not the table.

  child.py BACKEND FOLDER SECONDS      in: the name of a check a line; out: an Outcome a line

It ends itself when a check takes longer than so many seconds, with a word on where it was.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.conformance.checks import CHECKS
from edgellm.conformance.workbench import Fault, Workbench
from edgellm.errors import EdgeError, UnsupportedError

if TYPE_CHECKING:
    from types import TracebackType

    from edgellm.executor import Backend


def backend(name: str) -> Backend:
    """The backend of an installed plugin, or of a module or package given by its path."""
    from edgellm import plugins, runtime

    path = Path(name)
    if path.exists():
        sys.path.insert(0, str(path.resolve().parent))
        module = __import__(path.stem)
        plugins.load("backend").register(module, name=path.stem)
        name = path.stem.removeprefix("edgellm_")
    return runtime.backend(name)


def outcome(name: str, bench: Workbench) -> tuple[str, str]:
    """ "passed", "declined" or "failed", and the words to it."""
    check = next(check for check in CHECKS if check.name == name)
    try:
        return "passed", check.run(bench)
    except UnsupportedError as error:
        return "declined", str(error)
    except Fault as fault:
        return "failed", str(fault)
    except EdgeError as error:
        return "failed", f"{type(error).__name__}: {error}"
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}{place(error.__traceback__)}"


def place(trace: TracebackType | None) -> str:
    """Where an error came from."""
    frames = traceback.extract_tb(trace)
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


def main() -> None:
    name, folder, seconds = sys.argv[1:]
    # Whatever the backend prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        bench = Workbench(backend(name), Path(folder))
    except EdgeError as error:
        print(json.dumps(["failed", str(error)]), file=answers, flush=True)
        return
    print(json.dumps(["ready", bench.backend.probe()]), file=answers, flush=True)
    for line in sys.stdin:
        faulthandler.dump_traceback_later(float(seconds), exit=True)
        found = outcome(line.strip(), bench)
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
