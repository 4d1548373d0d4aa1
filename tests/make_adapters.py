"""Make tests/data/adapters: adapters as PEFT itself saves them, with the logits that it computes.

Run it where the dependency group "references" (torch, transformers and peft) is installed:

    python tests/make_adapters.py

Each folder is for the family of tests/data/models in its name, and has adapter_config.json,
adapter_model.safetensors, and logits.npz: `tokens` and `logits`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import LoraConfig, get_peft_model

DATA = Path(__file__).parent / "data"
TOKENS = [5, 9, 3, 44, 17, 2, 60, 31, 8, 25]
FUSED = ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]
LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

ADAPTERS: dict[str, dict[str, Any]] = {
    "llama-patterns": {
        "target_modules": LLAMA,
        "rank_pattern": {"q_proj": 3, "layers.1.mlp.up_proj": 1},
        "alpha_pattern": {"k_proj": 9},
    },
    "gpt_neox-stabilised": {"target_modules": FUSED, "use_rslora": True},
    "falcon_7b-plain": {"target_modules": FUSED},
    "gpt2-plain": {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
    "qwen2-some": {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]},
}


def make(name: str, options: dict[str, Any]) -> None:
    family = name.partition("-")[0]
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_pretrained(
        DATA / "models" / family, dtype=torch.float32, attn_implementation="eager"
    )
    config = LoraConfig(r=2, lora_alpha=5, task_type="CAUSAL_LM", **options)
    model = get_peft_model(base, config).eval()
    for parameter, values in model.named_parameters():
        if "lora_B" in parameter:
            torch.nn.init.normal_(values, std=0.3)
    with torch.no_grad():
        logits = model(torch.tensor([TOKENS])).logits[0].numpy()
    folder = DATA / "adapters" / name
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "base_model_name_or_path": family}, indent=1))
    np.savez_compressed(folder / "logits.npz", tokens=TOKENS, logits=logits)


def main() -> None:
    for name, options in ADAPTERS.items():
        make(name, options)


if __name__ == "__main__":
    main()
