"""Tokens per second of LoRA training, beside PyTorch and peft on the same shape.

    python tests/benchmarks/tune_peer.py MODEL.gguf PYTHON [ROUNDS [THREADS]]

PYTHON has torch, transformers and peft (the dependency group "references"). Both train all
matrices of the layers with rank 8 on one row of 256 random tokens a step, from the same shape with
weights of their own; they take turns, and the median of the ratios counts. Prints one JSON object.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

OURS = """
import json, resource, sys, time
import numpy as np
from edgellm import checkpoint, runtime
from edgellm.training import low_rank
from edgellm.training.batch import Batch
base = checkpoint.open(sys.argv[1])
operations = runtime.backend("cpu").training(int(sys.argv[2]))
from edgellm.training.network import Network
from edgellm.training.optimiser import AdamW, Rule
learnt = low_rank.first_values(low_rank.chosen(base, ["*"]), 8, 0)
network = Network(base.config, base.tensors, operations, learnt, scale=2.0)
optimiser = AdamW([*network.layers, network.top], Rule())
tokens = np.random.default_rng(0).integers(1, base.config.vocab, (1, 256)).astype(np.int32)
batch = Batch(tokens, np.roll(tokens, -1, 1), np.zeros_like(tokens))
def step():
    network.learn(batch, 1 / batch.wanted)
    optimiser.step(1e-4)
shape = [base.config.vocab, base.config.dim, len(base.config.layers), base.config.heads,
         base.config.layers[0].kv_heads, base.config.hidden]
"""
THEIRS = """
import json, resource, sys, time
import torch, transformers, peft
torch.set_num_threads(int(sys.argv[2]))
v, d, l, h, k, f = map(int, sys.argv[3:])
config = transformers.LlamaConfig(vocab_size=v, hidden_size=d, num_hidden_layers=l,
    num_attention_heads=h, num_key_value_heads=k, intermediate_size=f, tie_word_embeddings=True)
model = transformers.LlamaForCausalLM(config)
lora = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
model = peft.get_peft_model(model, lora)
model.train()
learnt = [p for p in model.parameters() if p.requires_grad]
optimiser = torch.optim.AdamW(learnt, lr=1e-4)
tokens = torch.randint(1, v, (1, 256))
def step():
    optimiser.zero_grad()
    model(input_ids=tokens, labels=tokens).loss.backward()
    torch.nn.utils.clip_grad_norm_(learnt, 1.0)
    optimiser.step()
shape = []
"""
LOOP = """
for _ in range(3): step()
print(json.dumps(shape), flush=True)
for line in sys.stdin:
    began = time.perf_counter()
    for _ in range(3): step()
    seconds = (time.perf_counter() - began) / 3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([256 / seconds, peak]), flush=True)
"""


class Worker:
    """A process that trains a few steps whenever it is asked."""

    def __init__(self, python: str, script: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [python, "-c", script + LOOP, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.shape = self.said()

    def said(self) -> list[float]:
        assert self.process.stdout is not None
        found: list[float] = json.loads(self.process.stdout.readline())
        return found

    def measure(self) -> list[float]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.said()


def main(model: str, python: str, rounds: int = 5, threads: int = 2) -> None:
    ours = Worker(sys.executable, OURS, str(Path(model).resolve()), str(threads))
    theirs = Worker(python, THEIRS, "-", str(threads), *map(str, ours.shape))
    pairs = [(ours.measure(), theirs.measure()) for _ in range(rounds)]
    result = {
        "tokens_per_second": statistics.median(one[0] for one, _ in pairs),
        "peer_tokens_per_second": statistics.median(other[0] for _, other in pairs),
        "ratio": statistics.median(one[0] / other[0] for one, other in pairs),
        "peak_bytes": pairs[-1][0][1],
        "peer_peak_bytes": pairs[-1][1][1],
        "ratios": [round(one[0] / other[0], 3) for one, other in pairs],
    }
    print(json.dumps(result, indent=1))
    for worker in (ours, theirs):
        worker.process.kill()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
