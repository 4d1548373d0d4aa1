"""Growth: a trained Llama with more layers and a larger vocabulary, that still says the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgellm.checkpoint import Checkpoint
from edgellm.config import Config
from edgellm.tokenizer import Tokenizer, TokenizerData
from edgellm.training.initial_weights import Weights, initial_weights


def grown(
    base: Checkpoint, own: Tokenizer, vocabulary: TokenizerData, places: Sequence[int],
    context: int,
    seed: int,
) -> tuple[Config, Weights]:  # fmt: skip
    """The base's weights in a larger model.

    `places` tells for each layer which one of the base it is, -1: a new one, which adds nothing yet
    (Chen et al. 2016, arXiv:1511.05641, section 2.4). `vocabulary` begins as the base's does, read
    by `own`; a new piece's embedding is the mean of those that spell it there.
    """
    layer = base.config.layers[0]
    config = replace(
        base.config, vocab=len(vocabulary.tokens), context=context, layers=(layer,) * len(places)
    )
    fresh = initial_weights(config, seed)
    old = {name: tensor.float32() for name, tensor in base.tensors.items()}
    weights = {
        name: _layer(name, places, old, values)
        if name.startswith("blk.")
        else old.get(name, values)
        for name, values in fresh.items()
    }
    weights["token_embd.weight"] = _embeddings(old["token_embd.weight"], own, vocabulary)
    return config, weights


def _layer(
    name: str, places: Sequence[int], old: Mapping[str, NDArray[np.float32]],
    fresh: NDArray[np.float32],
) -> NDArray[np.float32]:  # fmt: skip
    _, index, rest = name.split(".", 2)
    place = places[int(index)]
    if place >= 0:
        return old[f"blk.{place}.{rest}"]
    adds = rest in ("attn_output.weight", "ffn_down.weight")
    return np.zeros_like(fresh) if adds else fresh


def _embeddings(
    old: NDArray[np.float32], own: Tokenizer, vocabulary: TokenizerData
) -> NDArray[np.float32]:
    from edgellm import tokenizer

    reader = tokenizer.make(vocabulary)
    rows = [old]
    for token in range(len(old), len(vocabulary.tokens)):
        text = reader.piece(token).decode(errors="ignore")
        ids = own.encode(text) or [0]
        rows.append(old[ids].mean(axis=0, keepdims=True))
    return np.concatenate(rows).astype(np.float32)
