"""Writing a trained model as GGUF, its matrices quantised."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgellm import gguf, quant
from edgellm.checkpoint import Checkpoint
from edgellm.config import Config
from edgellm.tensor import MappedTensor
from edgellm.tokenizer import TokenizerData

_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7}
"""GGUF's numbers for what most tensors of a file are."""


def write_llama(
    path: Path,
    config: Config,
    weights: Mapping[str, NDArray[np.float32]],
    tokenizer: TokenizerData,
    template: str,
    about: Mapping[str, object],
    type_name: str = "Q8_0",
) -> None:
    """Write a Llama whose matrices are of `type_name`; `about` holds keys of "general.".

    Raises UnsupportedError for a type that can't be made or a width that it doesn't divide.
    """
    metadata: dict[str, object] = {
        "general.architecture": "llama",
        "general.file_type": _FILE_TYPES[type_name],
        "general.quantization_version": 2,
        **{f"general.{key}": value for key, value in about.items()},
        "llama.block_count": len(config.layers),
        "llama.context_length": config.context,
        "llama.embedding_length": config.dim,
        "llama.feed_forward_length": config.hidden,
        "llama.attention.head_count": config.heads,
        "llama.attention.head_count_kv": config.layers[0].kv_heads,
        "llama.attention.layer_norm_rms_epsilon": config.norm_eps,
        "llama.rope.dimension_count": config.ropes[0].dim,
        "llama.rope.freq_base": config.ropes[0].theta,
        "llama.vocab_size": config.vocab,
        "tokenizer.ggml.model": tokenizer.model,
        "tokenizer.ggml.pre": tokenizer.pre,
        "tokenizer.ggml.tokens": list(tokenizer.tokens),
        "tokenizer.ggml.token_type": np.asarray(tokenizer.types, np.int32),
        "tokenizer.ggml.merges": list(tokenizer.merges),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": template,
    }
    if tokenizer.eos is not None:
        metadata["tokenizer.ggml.eos_token_id"] = tokenizer.eos
        metadata["tokenizer.ggml.padding_token_id"] = tokenizer.eos
    tensors = {name: _stored(name, values, type_name) for name, values in weights.items()}
    gguf.write(path, metadata, tensors)


def _stored(name: str, values: NDArray[np.float32], type_name: str) -> MappedTensor:
    kind = type_name if values.ndim > 1 else "F32"
    return MappedTensor(name, values.shape, kind, quant.quantise(kind, values).data)


def write_changed(path: Path, base: Checkpoint, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Write the model of a GGUF file with other weights, in the types they have there or, where
    those can't be made, as Q8_0 or float16. Raises OSError."""
    file = gguf.read(base.path)
    metadata = {key: value for key, value in file.metadata.items() if not key.startswith("split.")}
    tensors = {
        name: _stored(name, weights[name].reshape(tensor.shape), _kept_type(tensor))
        if name in weights
        else tensor
        for name, tensor in file.tensors.items()
    }
    gguf.write(path, metadata, tensors)


def _kept_type(tensor: MappedTensor) -> str:
    if tensor.type in quant.PACKERS:
        return tensor.type
    if tensor.type == "BF16" or tensor.shape[-1] % quant.TYPES["Q8_0"].values:
        return "F16"
    return "Q8_0"
