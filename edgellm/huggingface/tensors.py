"""A folder's tensors under GGUF's names, rearranged on reading where the layouts differ."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgellm.checkpoint import StoredTensor
from edgellm.config import Config
from edgellm.errors import FormatError, UnsupportedError
from edgellm.huggingface.config import Switches
from edgellm.huggingface.names import NAMES
from edgellm.tensor import MappedTensor, RearrangedTensor

Floats = NDArray[np.float32]

FLOATS = ("F64", "F32", "F16", "BF16")


# Constants that older versions saved with the weights.
BUFFERS = re.compile(
    r".*\.(rotary_emb\.inv_freq|rotary\.inv_freq|(attn|attention)\.(bias|masked_bias))"
    r"|.*\.attn\.embed_positions|rotary_emb\.inv_freq"
)


def canonical(
    file: str, config: Config, switches: Switches, stored: Mapping[str, MappedTensor]
) -> dict[str, StoredTensor]:
    """The model's tensors by their GGUF names.

    Raises UnsupportedError for a tensor that such a model doesn't have, FormatError for one that
    is missing or of the wrong rank or size. What shapes can't be told before rearranging are left
    to `edgellm.layout`.
    """
    names = NAMES[switches.model_type]
    reader = _Reader(file, config, switches, stored, names.prefix)
    for module, name in names.top.items():
        reader.module(module, name)
    if not switches.tied:
        reader.module(names.head, "output", outside=True)
    for index in range(len(config.layers)):
        for module, name in names.block.items():
            if _has(switches, config, index, module, name):
                reader.module(f"{names.layer}{index}.{module}", f"blk.{index}.{name}")
        if switches.head_norms:
            for part, count in (("q", config.heads), ("k", config.layers[index].kv_heads)):
                module = f"{names.layer}{index}.self_attn.{part}_layernorm.norms"
                reader.head_norm(module, f"blk.{index}.attn_{part}_norm.weight", count)
    reader.refuse_rest({f"{names.head}.weight"} if switches.tied else set())
    return reader.found


def _has(switches: Switches, config: Config, index: int, module: str, name: str) -> bool:
    """Whether this layer of this model has the module, of those that its family may have."""
    if switches.model_type == "lfm2":
        return not name.startswith(
            "attn_" if config.layers[index].kind == "conv" else "shortconv."
        ) or (name == "attn_norm")
    if switches.model_type == "falcon":
        if module in ("ln_mlp", "ln_attn"):
            return switches.norms == 2
        if module == "input_layernorm":
            return switches.norms == 1
    if module == "post_attention_layernorm" and switches.model_type in ("falcon", "stablelm"):
        return not config.parallel
    return True


class _Reader:
    """Takes tensors by module and keeps account of those that nobody asked for."""

    def __init__(
        self,
        file: str,
        config: Config,
        switches: Switches,
        stored: Mapping[str, MappedTensor],
        prefix: str,
    ) -> None:
        self.file, self.config, self.switches = file, config, switches
        self.stored = stored
        # GPT-2's own files leave the prefix out.
        self.prefix = prefix if any(name.startswith(prefix) for name in stored) else ""
        self.left = set(stored)
        self.found: dict[str, StoredTensor] = {}

    def take(self, name: str) -> MappedTensor:
        if name not in self.stored:
            allowed = f"a {self.switches.model_type} model has a tensor of that name"
            raise FormatError(self.file, f"tensor {name}", None, allowed)
        self.left.discard(name)
        return self.stored[name]

    def module(self, module: str, name: str, outside: bool = False) -> None:
        """A module's weight, and its bias if this model has one there."""
        source = module if outside else self.prefix + module
        self.add(f"{name}.weight", self.take(f"{source}.weight"), source)
        part = name.split(".", 2)[2] if name.startswith("blk.") else name
        is_norm = part.endswith("_norm") or part == "attn_norm_2"
        head_norm = part in ("attn_q_norm", "attn_k_norm")
        if part in self.switches.biases or (
            is_norm and not head_norm and self.config.norm == "layer"
        ):
            self.add(f"{name}.bias", self.take(f"{source}.bias"), source)

    def add(self, name: str, tensor: MappedTensor, source: str) -> None:
        kind, config = self.switches.model_type, self.config
        if self.switches.quantised and "blk." in name and len(tensor.shape) == 2:
            self.found[name] = self.ternary(name, tensor, f"{source}.weight_scale")
            return
        self.check_floats(tensor)
        if kind == "gpt2" and name.startswith("blk.") and len(tensor.shape) == 2:
            self.change(name, tensor.shape[::-1], np.transpose, tensor)
        elif "shortconv.conv.weight" in name:
            if len(tensor.shape) != 3 or tensor.shape[1] != 1:
                raise FormatError(
                    self.file, f"shape of {tensor.name}", tensor.shape, "(width, 1, taps) is needed"
                )
            self.change(name, tensor.shape[::2], lambda w: w[:, 0], tensor)
        elif kind.startswith("gemma") and name.endswith("norm.weight"):
            self.change(name, tensor.shape, lambda w: w + 1, tensor, computed=True)
        elif "attn_qkv" in name and kind in ("falcon", "gpt_neox"):
            keys = config.layers[0].kv_heads
            rows = (config.heads + 2 * keys) * config.head_dim
            if not tensor.shape or tensor.shape[0] != rows:
                raise FormatError(
                    self.file, f"shape of {tensor.name}", tensor.shape, f"{rows} rows are needed"
                )
            self.change(name, tensor.shape, ungroup(keys, config.head_dim), tensor)
        else:
            self.found[name] = replace(tensor, name=name)

    def change(
        self,
        name: str,
        shape: tuple[int, ...],
        change: Callable[..., Floats],
        *sources: MappedTensor,
        computed: bool = False,
    ) -> None:
        nbytes = sum(source.nbytes for source in sources)
        # Moved values keep their type, which must be one.
        computed = computed or len({source.type for source in sources}) > 1
        kind: Literal["computed", "moved"] = "computed" if computed else "moved"
        stored = "F32" if computed else sources[0].type
        self.found[name] = RearrangedTensor(name, shape, stored, nbytes, sources, change, kind)

    def head_norm(self, module: str, name: str, count: int) -> None:
        """A norm with one weight a head, which are stored one by one."""
        if count > len(self.left):
            raise FormatError(self.file, f"tensors {module}", len(self.left), f"{count} are needed")
        heads = [self.take(f"{self.prefix}{module}.{head}.weight") for head in range(count)]
        for head in heads:
            self.check_floats(head)
            if head.shape != (self.config.head_dim,):
                allowed = f"({self.config.head_dim},) is needed"
                raise FormatError(self.file, f"shape of {head.name}", head.shape, allowed)
        self.change(name, (count, self.config.head_dim), lambda *w: np.stack(w), *heads)

    def ternary(self, name: str, tensor: MappedTensor, scale_name: str) -> RearrangedTensor:
        """One of BitNet's matrices: -1, 0 and 1 times a factor for the whole."""
        if self.switches.quantised == "online":
            self.check_floats(tensor)
            return RearrangedTensor(
                name, tensor.shape, tensor.type, tensor.nbytes, (tensor,), _to_ternary, "ternary"
            )
        scale = self.take(scale_name)
        self.check_floats(scale)
        if scale.shape not in ((), (1,)):
            raise FormatError(self.file, f"shape of {scale_name}", scale.shape, "(1,) is needed")
        divide = self.switches.quantised == "quotient"
        rows, columns = tensor.shape
        if tensor.type == "U8":
            rows *= 4
        else:
            self.check_floats(tensor)
        packed = tensor.type == "U8"

        def values(weight: Floats, scale: Floats) -> Floats:
            factor = scale.reshape(())
            signs = _unpack(weight) if packed else weight
            return signs / factor if divide else signs * factor

        nbytes = tensor.nbytes + scale.nbytes
        return RearrangedTensor(
            name, (rows, columns), "F32", nbytes, (tensor, scale), values, "ternary"
        )

    def check_floats(self, tensor: MappedTensor) -> None:
        if tensor.type not in FLOATS:
            allowed = f"supported are {', '.join(FLOATS)}"
            raise UnsupportedError(self.file, f"type of {tensor.name}", tensor.type, allowed)

    def refuse_rest(self, duplicates: set[str]) -> None:
        for name in sorted(self.left - duplicates):
            if not BUFFERS.fullmatch(name):
                allowed = f"edgellm knows no such tensor in a {self.switches.model_type} model"
                raise UnsupportedError(self.file, "tensor", name, allowed)


def ungroup(keys: int, head_dim: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """From rows stored as (queries, key, value) for each key head to all Q, all K, all V."""

    def change(fused: NDArray[Any]) -> NDArray[Any]:
        rest = fused.shape[1:]
        groups = fused.reshape(keys, -1, head_dim, *rest)
        parts = (groups[:, :-2], groups[:, -2], groups[:, -1])
        return np.concatenate([part.reshape(-1, *rest) for part in parts])

    return change


def group(keys: int, head_dim: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Back to the order that `ungroup` takes rows from."""

    def change(parts: NDArray[Any]) -> NDArray[Any]:
        heads = parts.reshape(-1, head_dim, *parts.shape[1:])
        q, k, v = np.split(heads, [len(heads) - 2 * keys, len(heads) - keys])
        groups = [part.reshape(keys, -1, *heads.shape[1:]) for part in (q, k, v)]
        return np.concatenate(groups, axis=1).reshape(parts.shape)

    return change


def _to_ternary(weight: Floats) -> Floats:
    """Each weight rounded to -1, 0 or 1 times the mean magnitude (arXiv:2402.17764, section 2)."""
    scale = np.maximum(np.abs(weight).mean(), np.float32(1e-5))
    ternary: Floats = np.clip(np.rint(weight / scale), -1, 1) * scale
    return ternary


def _unpack(packed: Floats) -> Floats:
    """From bytes of four 2-bit values, each plus 1; the lowest bits are the first rows'."""
    bits = packed.astype(np.uint8)
    rows = [((bits >> shift) & 3).astype(np.float32) - 1 for shift in (0, 2, 4, 6)]
    return np.concatenate(rows)
