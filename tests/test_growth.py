"""A grown model says what the smaller one says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import edgellm
from edgellm import checkpoint, tokenizer
from edgellm.training import bpe_trainer, growth, initial_weights
from edgellm.training.model_writer import write_llama

TEXTS = ["turn on the lamp", "the lamp is on", "set_fan(percent: 0..100 %)"] * 4


def test_new_layers_and_pieces_change_nothing_yet(tmp_path: Path) -> None:
    data = bpe_trainer.train(TEXTS[:2] * 4, 280, ["<|im_end|>"])
    config, weights = initial_weights.llama(len(data.tokens), 32, 2, 2, 1, 64, 128, 1)
    small = tmp_path / "small.gguf"
    write_llama(small, config, weights, data, "", {}, "F32")
    larger = bpe_trainer.extend(data, TEXTS, 300, ["[[call]]"])
    base, own = checkpoint.open(small), tokenizer.make(data)
    grown, values = growth.grown(base, own, larger, (0, -1, 1, -1), 256, 2)
    assert (len(grown.layers), grown.context, grown.vocab) == (4, 256, len(larger.tokens))
    large = tmp_path / "large.gguf"
    write_llama(large, grown, values, larger, "", {}, "F32")
    ids = own.encode(TEXTS[0])
    with edgellm.load(small, exact=True) as first, edgellm.load(large, exact=True) as second:
        before, after = first.logits(ids), second.logits(ids)
        assert np.allclose(before, after[:, : len(data.tokens)], atol=1e-5)
    new = values["token_embd.weight"][len(data.tokens) + 1]
    text = tokenizer.make(larger).piece(len(data.tokens) + 1).decode()
    assert np.allclose(new, weights["token_embd.weight"][own.encode(text)].mean(axis=0))
