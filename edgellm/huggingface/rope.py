"""Rotary positions as config.json describes them, in its spellings of all years."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgellm.config import Rope, Yarn
from edgellm.keys import MAX_CONTEXT, Keys

KNOWN = {
    *("rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "attention_factor"),
    *("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    *("short_factor", "long_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
    *("truncate", "finetuned"),
}
LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class Defaults:
    """What a family's configuration says where the file doesn't."""

    theta: float = 10000.0
    local_theta: float = 0.0
    """Of layers with a window; 0: the same as the others'."""
    partial: float | None = None
    """Share of each head's channels that are rotated; None: all, the family has no such setting."""


def ropes(keys: Keys, defaults: Defaults, head_dim: int, context: int) -> tuple[Rope, ...]:
    """The tables of the model: one for all layers, or a global and a local one.

    Since transformers 5 everything stands in `rope_parameters`, nested by layer type where types
    differ; before, in `rope_scaling`, `rope_theta` and further keys that some families spelled in
    their own ways. Raises FormatError and UnsupportedError.
    """
    old, new = _mapping(keys, "rope_scaling"), _mapping(keys, "rope_parameters")
    theta = keys.number("rope_theta", defaults.theta, 1e-3)
    partial = keys.number("partial_rotary_factor", defaults.partial or 1.0, 0.0, 1.0)
    # Phi-3 keeps it beside the other parameters, where it counts more than among them.
    outer = keys.integer("original_max_position_embeddings", 0, 0, MAX_CONTEXT)
    local_theta = keys.number("rope_local_base_freq", defaults.local_theta, 0.0)
    nested = [kind for kind in LAYER_TYPES if isinstance(new.get(kind), Mapping)]
    if not nested:
        tables = [Table(keys, old or new, theta, partial, outer)]
        if local_theta:
            tables.append(Table(keys, {}, local_theta, partial, 0))
    elif nested[0] != LAYER_TYPES[0] or len(new) != len(nested):
        allowed = f"supported beside each other are {' and '.join(LAYER_TYPES)}"
        raise keys.unsupported("rope_parameters", list(new), allowed)
    else:
        tables = [Table(keys, {**new[nested[0]], **old}, theta, partial, outer)]
        for kind in nested[1:]:
            tables.append(Table(keys, new[kind], local_theta or theta, partial, outer))
    found = [table.rope(head_dim, context) for table in tables]
    if defaults.partial is None and any(rope.dim != head_dim for rope in found):
        allowed = "this family rotates all channels of a head"
        raise keys.unsupported("partial_rotary_factor", found[0].dim / head_dim, allowed)
    return tuple(found[:1] if len(set(found)) == 1 else found)


def _mapping(keys: Keys, name: str) -> dict[str, Any]:
    value = keys.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise keys.fail(name, value, "an object is needed")
    return value


class Table:
    """The parameters of one table, and what stands outside them."""

    def __init__(
        self, outer: Keys, values: Mapping[str, object], theta: float, partial: float, original: int
    ) -> None:
        self.keys = Keys(outer.file, values)
        self.theta, self.partial, self.original = theta, partial, original
        for name, value in values.items():
            if name not in KNOWN and value not in (None, False):
                allowed = "this parameter of rotary positions isn't supported"
                raise outer.unsupported(f"rope_parameters.{name}", value, allowed)

    def rope(self, head_dim: int, context: int) -> Rope:
        keys = self.keys
        kind = keys.word("rope_type", keys.word("type", "default"))
        theta = keys.number("rope_theta", self.theta, 1e-3)
        dim = int(head_dim * keys.number("partial_rotary_factor", self.partial, 0.0, 1.0))
        if dim < 2 or dim % 2:
            raise keys.fail("rotated channels of a head", dim, "an even number is needed")
        plain = Rope(dim=dim, theta=theta, original_context=context)
        if kind == "default":
            return plain
        if kind == "linear":
            factor = keys.number("factor", 1.0, 1e-6)
            return Rope(dim=dim, theta=theta, original_context=context, scale=factor)
        inner = keys.integer("original_max_position_embeddings", context, 1, MAX_CONTEXT)
        original = self.original or inner
        if kind == "llama3":
            return Rope(
                dim=dim, theta=theta, factors=self.llama3(plain, original), original_context=context
            )
        if kind == "yarn":
            return self.yarn(plain, context / original, original)
        if kind in ("longrope", "su"):
            return self.longrope(plain, context / original, original)
        allowed = "supported: default, linear, llama3, yarn, longrope"
        raise keys.unsupported("rope_type", kind, allowed)

    def llama3(self, plain: Rope, original: int) -> tuple[float, ...]:
        """Divisors: 1 for waves short against the original context, `factor` for long ones."""
        factor = self.keys.number("factor", 8.0, 1e-6)
        low = self.keys.number("low_freq_factor", 1.0, 1e-6)
        high = self.keys.number("high_freq_factor", 4.0, 1e-6)
        if high <= low:
            raise self.keys.fail("high_freq_factor", high, "it must be above low_freq_factor")
        divisors = []
        for channel in range(0, plain.dim, 2):
            turns = original * plain.theta ** (-channel / plain.dim) / (2 * math.pi)
            kept = min(max((turns - low) / (high - low), 0.0), 1.0)
            divisors.append(1 / ((1 - kept) / factor + kept))
        return tuple(divisors)

    def yarn(self, plain: Rope, ratio: float, original: int) -> Rope:
        keys = self.keys
        factor = keys.number("factor", ratio, 1e-6)
        if not keys.flag("truncate", True):
            raise keys.unsupported("truncate", False, "only the rounded range is supported")
        if plain.theta == 1:
            raise keys.fail("rope_theta", plain.theta, "yarn needs another base than 1")

        def magnitude(weight: float) -> float:
            return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0

        weight, whole = keys.number("mscale", 0.0), keys.number("mscale_all_dim", 0.0)
        said = magnitude(weight) / magnitude(whole) if weight and whole else magnitude(1.0)
        return Rope(
            dim=plain.dim,
            theta=plain.theta,
            original_context=original,
            yarn=Yarn(
                factor,
                original,
                keys.number("beta_fast", 32.0, 0.0) or 32.0,
                keys.number("beta_slow", 1.0, 0.0) or 1.0,
            ),
            magnitude=keys.number("attention_factor", said),
        )

    def longrope(self, plain: Rope, ratio: float, original: int) -> Rope:
        keys, count = self.keys, plain.dim // 2
        factor = keys.number("factor", ratio, 1e-6)
        if original < 2:
            name = "original_max_position_embeddings"
            raise keys.fail(name, original, "longrope needs at least 2")
        said = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        tables = [keys.numbers(name, count) for name in ("short_factor", "long_factor")]
        if not all(tables):
            raise keys.fail("short_factor and long_factor", None, "longrope needs both")
        return Rope(
            dim=plain.dim,
            theta=plain.theta,
            factors=tables[0],
            long_factors=tables[1],
            original_context=original,
            magnitude=keys.number("attention_factor", said),
        )
