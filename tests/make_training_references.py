"""Make tests/data/training: what PyTorch's gradients and first steps of training are.

For the tiny models of tests/data/models, by transformers and peft in float32. Run it where edgellm,
the dependency group "references" and peft are installed:

    python tests/make_training_references.py [FAMILY …]

Each file NAME.npz holds the tokens (B, T) and targets (-1: not learnt), the mean losses of ten
steps of AdamW, and the first step's gradient of each matrix of the adapter that
`training_cases.adapter` makes, by our names.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import peft
import torch
import transformers
from safetensors.torch import save_file
from training_cases import FAMILIES, MODELS, OUT, RATE, adapter, rows

from edgellm import adapter as adapters
from edgellm import checkpoint


def make(family: str) -> None:
    base = checkpoint.open(MODELS / family)
    tokens, targets = rows(base)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        adapters.write_peft(folder, adapter(base), base)
        # transformers' eager attention adds Falcon's ALiBi twice.
        attention = "sdpa" if "falcon" in family else "eager"
        model = transformers.AutoModelForCausalLM.from_pretrained(
            MODELS / family, dtype=torch.float32, attn_implementation=attention
        )
        trained = peft.PeftModel.from_pretrained(model, folder, is_trainable=True)
        trained.eval()  # without dropout
        learnt = {n: p for n, p in trained.named_parameters() if p.requires_grad}
        optimiser = torch.optim.AdamW(learnt.values(), lr=RATE, weight_decay=0.0)
        losses = []
        for step in range(10):
            optimiser.zero_grad()
            logits = trained(torch.from_numpy(tokens).long()).logits
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), torch.from_numpy(targets).long().flatten(), ignore_index=-1
            )
            loss.backward()
            if step == 0:
                gradients = {
                    name.replace(".default", ""): parameter.grad.clone().contiguous()
                    for name, parameter in learnt.items()
                }
                save_file(gradients, folder / "adapter_model.safetensors")
            torch.nn.utils.clip_grad_norm_(learnt.values(), 1.0)
            optimiser.step()
            losses.append(loss.item())
        # Gradients are in the places of their matrices: reading puts them into ours.
        found = adapters.read(folder, replace(base))
    arrays = {}
    for name, matrix in found.matrices.items():
        arrays[f"{name} a"], arrays[f"{name} b"] = matrix.a, matrix.b
    OUT.mkdir(exist_ok=True)
    np.savez(OUT / f"{family}.npz", tokens=tokens, targets=targets, losses=losses, **arrays)
    print(family, losses[0], losses[-1])


if __name__ == "__main__":
    for family in sys.argv[1:] or FAMILIES:
        make(family)
