"""The command line: picks the verb, and turns errors into one line and an exit status."""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import signal
import sys

from edgellm import __version__
from edgellm.errors import EdgeError

# Each verb is a module of edgellm.commands, imported only when it is called.
VERBS = {
    "chat": "talk with a model at this terminal",
    "run": "answer one prompt, on standard output",
    "serve": "answer on serial lines and sockets",
    "status": "tell how a running service is",
    "link": "ask a service over a serial line or a socket, as a device does",
    "build": "compile and pack a model into a bundle",
    "quantize": "write a model's file anew with smaller weights",
    "merge": "put adapters into a model's weights",
    "perplexity": "measure how well a model foretells a text",
    "keys": "list, make and trust the keys that sign bundles",
    "info": "show what is in a model file or a bundle",
    "boards": "list the boards that have a profile, and tell which one this is",
    "plan": "tell whether a model fits a machine, and what would",
    "tune": "adapt a model to samples of yours",
    "plugins": "list the plugins that are installed",
    "backend": "check that a backend keeps its contract, or begin a new one",
    "bench": "measure speed and memory",
    "doctor": "find out why a device can't be reached, and what helps",
}

EPILOG = """\
examples:
  edgellm chat                              talk with the built-in model
  edgellm chat model.gguf                   talk with a model of yours
  echo "turn on the lamp" | edgellm run     one question, one answer
  edgellm build model.gguf -o model.edge    compile and pack it, for machines without a compiler
  edgellm serve --channel serial:///dev/ttyACM0?baud=115200 --channel tcp://127.0.0.1:7070

`edgellm VERB --help` tells more about a verb.
exit status: 0 done, 1 failed, 2 wrong usage, 3 doesn't fit into memory, 4 not trusted, 5 damaged or
  unsupported file, 6 line lost, 7 busy, 130 interrupted, 143 terminated
environment: EDGELLM_DEVICE=cpu runs models there where --device isn't given, EDGELLM_PLUGINS=a,b
  loads only these plugins, EDGELLM_TRACE=1 shows their calls, EDGELLM_DEBUG=1 shows where an error
  came from
"""


def parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The argument parser; only `verb`'s options are filled in, for the others aren't imported."""
    top = argparse.ArgumentParser(
        prog="edgellm",
        description="Language models on small machines: at the terminal, on a socket, on a wire.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"edgellm {__version__}")
    top.add_argument("--debug", action="store_true", help="show where an error came from")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, summary in VERBS.items():
        sub = verbs.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name == verb:
            sub.add_argument(
                "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
            )
            importlib.import_module(f"edgellm.commands.{name}").arguments(sub)
    return top


def run(argv: list[str]) -> int:
    """Run one command line; returns the exit status. Prints nothing but the verb's own output."""
    verb = next((word for word in argv if not word.startswith("-")), None)
    options = parser(verb).parse_args(argv)
    if options.debug:
        os.environ["EDGELLM_DEBUG"] = "1"
    command = importlib.import_module(f"edgellm.commands.{options.verb}")
    status: int = command.main(options)
    sys.stdout.flush()
    return status


def main(argv: list[str] | None = None) -> int:
    """The `edgellm` command: `run`, with what goes wrong told on standard error."""
    _open_missing()
    # Python looks for unused cycles after every 700 new objects; a model's start makes a million.
    gc.set_threshold(50_000)
    # NumPy's OpenBLAS starts a thread for each processor, which waits for work in a busy loop for
    # 30 ms after each product, and after its start; so for 0.4 ms (2**20 cycles).
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")
    try:
        return run(sys.argv[1:] if argv is None else argv)
    except EdgeError as error:
        if os.environ.get("EDGELLM_DEBUG"):
            raise
        print("edgellm:", " ".join(str(error).splitlines()), file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        _give_up_output()  # its reader has gone
        return 128 + signal.SIGPIPE
    except OSError as error:  # a full disk behind standard output, above all
        if os.environ.get("EDGELLM_DEBUG"):
            raise
        _give_up_output()
        print(f"edgellm: {error}", file=sys.stderr)
        return 1


def _open_missing() -> None:
    """Python has None for a standard stream that was closed before it started."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def _give_up_output() -> None:
    """Python would complain again when it flushes standard output at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
