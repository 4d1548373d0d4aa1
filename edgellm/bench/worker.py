"""A model of ours under test, in a process of its own: `python -P worker.py TASK`.

The protocol, one JSON object a line: TASK says what to load. The first line out, `{}`, comes with
the first token, the second describes what was loaded. Then each line in orders a turn, `{"test":
"prefill" or "decode", "tokens": N, "depth": D, "slots": B}`, and is answered by `{"seconds": ...,
"peak_rss_bytes": ...}`; the description has the latter too. In place of any answer may come
`{"error": ..., "status": ...}`, which is the last. The end of the input ends the process.
"""

from __future__ import annotations

import gc
import json
import math
import os
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

gc.set_threshold(50_000)  # as the command line does, before the imports that profit by it

from edgellm import progress, runtime  # noqa: E402
from edgellm.errors import EdgeError  # noqa: E402

if TYPE_CHECKING:
    from edgellm.checkpoint import ModelFile
    from edgellm.executor import Executor


def answers(task: dict[str, Any]) -> Iterator[dict[str, object]]:
    """What is sent back, in order; reads the orders from standard input."""
    with progress.bar() as shown:
        model = runtime.load(
            task["model"],
            exact=task["exact"],
            context=task["context"],
            slots=task["slots"],
            threads=task["threads"] or None,
            kv=task["kv"],
            device=task["device"],
            progress=shown,
        )
    with model:
        model.executor.step([0], [0], [0])
        yield {}
        draw = random.Random(0)
        tokens = [draw.randrange(model.config.vocab) for _ in range(task["context"])]
        running = {"threads": model.executor.threads, "device": model.chosen.backend}
        yield about(model.file) | running
        for line in sys.stdin:
            order = json.loads(line)
            run = prefill if order["test"] == "prefill" else decode
            start, end = order["depth"], order["depth"] + order["tokens"]
            started = time.perf_counter()
            run(model.executor, tokens[start:end], start, order["slots"])
            seconds = time.perf_counter() - started
            yield {"seconds": seconds, "peak_rss_bytes": peak_bytes()}


def prefill(executor: Executor, tokens: list[int], depth: int, slots: int) -> None:
    """The tokens into each of the slots from `depth` on."""
    for slot in range(slots):
        executor.prefill(tokens, slot, depth)


def decode(executor: Executor, tokens: list[int], depth: int, slots: int) -> None:
    """The tokens one by one, in all slots at once; which they are makes no difference."""
    rows = range(slots)
    for position, token in enumerate(tokens, depth):
        executor.step([token] * slots, rows, [position] * slots)


def about(file: ModelFile) -> dict[str, object]:
    """What the model is, and the bytes that one token's decoding reads of its weights."""
    tensors = file.tensors
    matrices = Counter[str]()
    for name, tensor in tensors.items():
        if name.startswith("blk.") and len(tensor.shape) > 1:
            matrices[tensor.type] += tensor.nbytes
    read = {name: tensor.nbytes for name, tensor in tensors.items()}
    if "output.weight" in tensors:
        # Of the embedding only one row is read.
        read.pop("token_embd.weight")
    return {
        "model": file.provenance.name or Path(file.path).stem,
        "type": max(matrices, key=lambda kind: matrices[kind]),
        "parameters": sum(math.prod(tensor.shape) for tensor in tensors.values()),
        "bytes": sum(tensor.nbytes for tensor in tensors.values()),
        "weight_bytes": sum(read.values()),
        "peak_rss_bytes": peak_bytes(),
    }


def peak_bytes() -> int:
    """Highest resident memory of this process so far."""
    try:
        # The kernel's other figure counts what the parent held before this program began.
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split(None, 1)[0]) << 10
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10


def main() -> None:
    # What others print must not get between the answers.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        for answer in answers(json.loads(sys.argv[1])):
            print(json.dumps(answer), file=out)
    except EdgeError as error:
        print(json.dumps({"error": str(error), "status": error.exit_status}), file=out)


if __name__ == "__main__":
    main()
