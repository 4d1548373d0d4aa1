"""llama.cpp under the same tests: run as a script by the Python that has llama-cpp-python.

It speaks the protocol of `edgellm/bench/worker.py` and imports nothing of edgellm, so that it runs
in another environment too. The calls are those of llama-bench and llama-batched-bench: whole
batches, no sampling, float16 keys and values, batches of 2,048 in parts of 512.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

# The folder of this script comes first in the path, and its modules have names that others have.
del sys.path[0]

import llama_cpp as llama  # noqa: E402

BATCH, PART = 2048, 512
FLASH = {"auto": -1, "off": 0, "on": 1}
SILENT = llama.llama_log_callback(lambda level, text, data: None)


class LlamaError(Exception):
    """llama.cpp says no."""


class Peer:
    """One model in one context of llama.cpp, with a sequence for each slot."""

    def __init__(self, task: dict[str, Any]) -> None:
        llama.llama_backend_init()
        options = llama.llama_model_default_params()
        options.n_gpu_layers = 0
        self.model = llama.llama_model_load_from_file(os.fsencode(task["model"]), options)
        if not self.model:
            raise LlamaError(f"can't load {task['model']}")
        context = llama.llama_context_default_params()
        context.n_ctx = task["context"] * task["slots"]
        context.n_seq_max = task["slots"]
        context.n_batch, context.n_ubatch = BATCH, PART
        context.n_threads = context.n_threads_batch = task["threads"]
        context.flash_attn_type = FLASH[task["flash"]]
        self.context = llama.llama_init_from_model(self.model, context)
        if not self.context:
            raise LlamaError(f"has no context of {task['context']} tokens")
        self.memory = llama.llama_get_memory(self.context)
        self.batch = llama.llama_batch_init(BATCH, 0, 1)
        self.tokens = [0]

    def draw(self, count: int) -> None:
        """Random tokens in place of the first."""
        vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))
        draw = random.Random(0)
        self.tokens = [draw.randrange(vocabulary) for _ in range(count)]

    def prefill(self, count: int, depth: int, slots: int) -> None:
        """Each slot's tokens from `depth` on, in turn; logits of the last alone."""
        for slot in range(slots):
            llama.llama_memory_seq_rm(self.memory, slot, depth, -1)
            for start in range(depth, depth + count, BATCH):
                end = min(start + BATCH, depth + count)
                rows = [(slot, position, position == end - 1) for position in range(start, end)]
                self._decode(rows)

    def decode(self, count: int, depth: int, slots: int) -> None:
        """One token after the other, of all slots together."""
        for slot in range(slots):
            llama.llama_memory_seq_rm(self.memory, slot, depth, -1)
        for position in range(depth, depth + count):
            self._decode([(slot, position, True) for slot in range(slots)])

    def _decode(self, rows: list[tuple[int, int, bool]]) -> None:
        batch = self.batch
        batch.n_tokens = len(rows)
        for index, (slot, position, wanted) in enumerate(rows):
            batch.token[index] = self.tokens[position]
            batch.pos[index] = position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = slot
            batch.logits[index] = wanted
        failed = llama.llama_decode(self.context, batch)
        if failed:
            raise SystemExit(f"llama.cpp's decode fails: {failed}")
        llama.llama_synchronize(self.context)


def peak_bytes() -> int:
    """Highest resident memory of this process so far."""
    try:
        # The kernel's other figure counts what the parent held before this program began.
        with open("/proc/self/status") as status:
            return int(status.read().partition("VmHWM:")[2].split(None, 1)[0]) << 10
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10


def answers(task: dict[str, Any]) -> Iterator[dict[str, object]]:
    """What is sent back, in order; reads the orders from standard input."""
    llama.llama_log_set(SILENT, ctypes.c_void_p())
    peer = Peer(task)
    peer.decode(1, 0, 1)
    yield {}
    peer.draw(task["context"])
    yield {"peer": f"llama.cpp ({llama.__version__})", "peak_rss_bytes": peak_bytes()}
    for line in sys.stdin:
        order = json.loads(line)
        run = peer.prefill if order["test"] == "prefill" else peer.decode
        started = time.perf_counter()
        run(order["tokens"], order["depth"], order["slots"])
        seconds = time.perf_counter() - started
        yield {"seconds": seconds, "peak_rss_bytes": peak_bytes()}


def main() -> None:
    # What llama.cpp prints by itself must not get between the answers.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        for answer in answers(json.loads(sys.argv[1])):
            print(json.dumps(answer), file=out)
    except LlamaError as error:
        print(json.dumps({"error": f"llama.cpp {error}", "status": 1}), file=out)


if __name__ == "__main__":
    main()
