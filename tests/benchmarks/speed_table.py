"""Prints the README's table of speeds (`make bench`), beside llama.cpp where that is installed.

    python tests/benchmarks/speed_table.py FOLDER [PYTHON]

FOLDER keeps the model files; PYTHON has llama-cpp-python, by default this one.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

from edgellm import bench, shapes
from edgellm.bench.process import peer_command
from edgellm.commands.bench import table
from edgellm.errors import BackendError
from edgellm.runtime import default_model

SHORT = bench.Test(prompt=128, generate=64)
DEEP = bench.Test(prompt=128, generate=32, depth=2048)
CHATS = bench.Test(prompt=0, generate=32, batch=4)
ROWS: dict[tuple[str, str], list[bench.Test]] = {
    ("stories15m", "Q4_0"): [SHORT],
    ("smollm2-135m", "Q4_0"): [SHORT, DEEP, CHATS],
    ("smollm2-135m", "Q8_0"): [SHORT],
    ("smollm2-135m", "Q4_K_M"): [SHORT],
    ("qwen2.5-0.5b", "Q4_0"): [SHORT],
    ("tinyllama-1.1b", "Q4_0"): [SHORT, CHATS],
}
REPETITIONS = 3


def models(folder: Path) -> Iterator[tuple[Path, list[bench.Test]]]:
    """The built-in model, and files of published shapes, made where they are lacking."""
    yield default_model(), [SHORT]
    folder.mkdir(parents=True, exist_ok=True)
    for (name, kind), tests in ROWS.items():
        path = folder / f"{name}-{kind}.gguf"
        if not path.exists():
            shapes.write_shape(name, kind, path)
        yield path, tests


def versus(python: str) -> str | None:
    try:
        peer_command("llama.cpp", python, default_model())
    except BackendError as error:
        print(f"without llama.cpp: {error}", file=sys.stderr)
        return None
    return "llama.cpp"


def main(folder: str, python: str = sys.executable) -> None:
    peer = versus(python)
    rows = itertools.chain.from_iterable(
        bench.measure(path, tests, repetitions=REPETITIONS, versus=peer, peer_python=python)
        for path, tests in models(Path(folder))
    )
    for line in table(rows):
        print(line, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
