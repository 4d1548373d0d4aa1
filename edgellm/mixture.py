"""Which type each tensor of a quantised file gets: the mixtures of llama.cpp's quantiser.

Most matrices take the type that the file is named after. The output's, on which all depends, takes
a finer one, and in Q4_K_M so do the values' and the last feed-forward matrices of some layers. A
matrix whose rows a type's blocks don't divide takes a type with shorter blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgellm.checkpoint import TensorInfo
from edgellm.quant import TYPES


@dataclass(frozen=True)
class FileType:
    number: int
    """llama.cpp's, in `general.file_type`."""
    matrix: str
    """The type of most matrices."""


FILE_TYPES = {
    "Q8_0": FileType(7, "Q8_0"),
    "Q4_0": FileType(2, "Q4_0"),
    "Q4_K_M": FileType(15, "Q4_K"),
    "Q6_K": FileType(18, "Q6_K"),
}
_Choice = Callable[[int, int], str]

SHORTER = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""What rows take that aren't a multiple of 256."""
KEPT = ("_norm.weight", "position_embd.weight", "shortconv.conv.weight", "ffn_gate_inp.weight")
"""Ends of the names of tensors with two dimensions that aren't quantised."""


def is_quantised(tensor: TensorInfo) -> bool:
    """Whether a tensor is one of those that quantising changes."""
    return (
        len(tensor.shape) > 1 and tensor.name.endswith("weight") and not tensor.name.endswith(KEPT)
    )


def types(
    file_type: str, architecture: str, tensors: Mapping[str, TensorInfo], weighed: bool = False
) -> dict[str, str]:
    """The types of the tensors that are to be quantised, by name; `weighed`: with importances."""
    chosen = {
        name: FILE_TYPES[file_type].matrix
        for name, tensor in tensors.items()
        if is_quantised(tensor)
    }
    for part, finer in _finer(file_type, architecture, weighed).items():
        of_layers = sorted(
            (int(name.split(".")[1]), name)
            for name in chosen
            if name.startswith("blk.") and name.endswith(f".{part}.weight")
        )
        for place, (_, name) in enumerate(of_layers):
            chosen[name] = finer(place, len(of_layers)) or chosen[name]
    output = "output.weight" if "output.weight" in chosen else "token_embd.weight"
    if output in chosen and file_type != "Q8_0":
        chosen[output] = "Q8_0" if architecture == "falcon" else "Q6_K"
    return {name: fitting(kind, tensors[name].shape[-1]) for name, kind in chosen.items()}


def fitting(kind: str, columns: int) -> str:
    """The type, or the next one whose blocks divide rows of so many values."""
    if columns % TYPES[kind].values:
        kind = SHORTER.get(kind, kind)
    return kind if columns % TYPES[kind].values == 0 else "F16"


def takes_more_bits(layer: int, layers: int) -> bool:
    """Whether a layer is one of those that get more bits: the first and last eighth, and every
    third between them."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _finer(file_type: str, architecture: str, weighed: bool) -> dict[str, _Choice]:
    """For some matrices, a function from their layer and the number of layers to their type."""
    if file_type == "Q4_0" and weighed:
        return {"ffn_down": lambda layer, layers: "Q4_1" if layer < layers // 8 else ""}
    if file_type != "Q4_K_M":
        return {}

    def more(layer: int, layers: int) -> str:
        return "Q6_K" if takes_more_bits(layer, layers) else ""

    def falcon(layer: int, layers: int) -> str:
        if layer < layers // 16:
            return "Q6_K"
        return "Q5_K" if takes_more_bits(layer, layers) else ""

    down = falcon if architecture == "falcon" else more
    return {"attn_v": more, "ffn_down": down, "attn_qkv": lambda *_: "Q5_K"}
