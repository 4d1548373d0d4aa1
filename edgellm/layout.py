"""Which tensors a model of a given Config consists of, and of which shapes."""

from __future__ import annotations

from collections.abc import Mapping

from edgellm.checkpoint import StoredTensor
from edgellm.config import Config, Layer
from edgellm.errors import FormatError, UnsupportedError

Shapes = dict[str, tuple[int, ...]]

# Read into the Config by whoever opens the file.
TABLES = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}


def check(file: str, config: Config, tensors: Mapping[str, StoredTensor]) -> None:
    """Raise UnsupportedError for a tensor that the Transformer wouldn't use, FormatError for one
    that is missing or misshapen."""
    allowed = shapes(config)
    needed = {"token_embd.weight"}
    if config.position == "learned":
        needed.add("position_embd.weight")
    for index, layer in enumerate(config.layers):
        prefix = f"blk.{index}."
        needed.update(prefix + name for name in ("ffn_up.weight", "ffn_down.weight"))
        if layer.kind == "conv":
            names = [f"shortconv.{part}.weight" for part in ("in_proj", "conv", "out_proj")]
        elif prefix + "attn_qkv.weight" in tensors:
            names = ["attn_qkv.weight", "attn_output.weight"]
        else:
            names = [f"attn_{part}.weight" for part in ("q", "k", "v", "output")]
        needed.update(prefix + name for name in names)

    for name, tensor in tensors.items():
        if name in TABLES:
            continue
        if name not in allowed:
            raise UnsupportedError(
                file, "tensor", name, f"no {config.architecture} model that edgellm runs has it"
            )
        shape = allowed[name]
        if name.endswith("ffn_up.weight") and tensor.shape == (2 * shape[0], shape[1]):
            if name.replace("ffn_up", "ffn_gate") not in tensors:
                continue  # Phi-3 stores gate and up as one matrix
        elif name.endswith(("attn_q_norm.weight", "attn_k_norm.weight")):
            if tensor.shape == (config.head_dim,):
                continue  # one weight for all heads, or one for each
        elif name.endswith(("attn_q_norm.bias", "attn_k_norm.bias")):
            weight = tensors.get(name.replace(".bias", ".weight"))
            shape = shape if weight is None else weight.shape
        elif name == "position_embd.weight" and tensor.shape[1:] == shape[1:]:
            continue  # its rows are the longest context
        elif name.endswith(".scale") and tensor.shape in ((), (1,)):
            continue
        if tensor.shape != shape:
            raise FormatError(file, f"shape of {name}", tensor.shape, f"{shape} is needed")
    for name in needed:
        if name not in tensors:
            raise FormatError(file, f"tensor {name}", None, "the model needs a tensor of that name")


def shapes(config: Config) -> Shapes:
    """Of every tensor that a model of this Config may have."""
    found = dict(_top(config))
    for index, layer in enumerate(config.layers):
        found |= {f"blk.{index}.{name}": shape for name, shape in _block(config, layer).items()}
    return found


def _top(config: Config) -> Shapes:
    shapes: Shapes = {
        "token_embd.weight": (config.vocab, config.dim),
        "position_embd.weight": (config.context, config.dim),
        "output.weight": (config.vocab, config.dim),
        "output.bias": (config.vocab,),
    }
    for norm in ("output_norm", "token_embd_norm"):
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (config.dim,)
    return shapes


def _block(config: Config, layer: Layer) -> Shapes:
    dim, hidden, heads, keys = config.dim, config.hidden, config.heads, layer.kv_heads
    query, key = heads * config.head_dim, keys * config.head_dim
    matrices: Shapes = {
        "ffn_up": (hidden, dim),
        "ffn_gate": (hidden, dim),
        "ffn_down": (dim, hidden),
    }
    norms: Shapes = {
        name: (dim,)
        for name in ("attn_norm", "attn_norm_2", "ffn_norm", "post_attention_norm", "post_ffw_norm")
    }
    norms["ffn_sub_norm"] = (hidden,)
    if layer.kind == "conv":
        matrices["shortconv.in_proj"] = (3 * dim, dim)
        matrices["shortconv.conv"] = (dim, config.conv_taps)
        matrices["shortconv.out_proj"] = (dim, dim)
    else:
        matrices["attn_qkv"] = (query + 2 * key, dim)
        matrices["attn_q"] = (query, dim)
        matrices["attn_k"] = matrices["attn_v"] = (key, dim)
        matrices["attn_output"] = (dim, query)
        norms["attn_q_norm"] = (heads, config.head_dim)
        norms["attn_k_norm"] = (keys, config.head_dim)
        norms["attn_sub_norm"] = (query,)
    shapes: Shapes = {}
    for name, shape in matrices.items():
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, (shape[0],)
        shapes[f"{name}.scale"] = ()
    for name, shape in norms.items():
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = shape
    return shapes
