"""The models whose mixtures of types were recorded, and how the record is ordered."""

from __future__ import annotations

from dataclasses import replace

from edgellm.shapes import Shape

WIDE = Shape(
    architecture="llama",
    layers=18,
    dim=256,
    heads=4,
    kv_heads=2,
    hidden=512,
    vocab=700,
    context=64,
    theta=1e4,
    tied=False,
)
MODELS = {
    "wide": WIDE,
    "tied": replace(WIDE, tied=True, architecture="qwen2", biased=True),
    "narrow": replace(WIDE, dim=160, heads=5, kv_heads=5, hidden=344),
}


def by_part(kinds: dict[str, str]) -> dict[str, list[str]]:
    """Of each tensor in all layers, the types in their order."""
    found: dict[str, list[str]] = {}
    for name in sorted(kinds, key=lambda name: [int(n) for n in name.split(".") if n.isdigit()]):
        part = name.split(".", 2)[-1] if name.startswith("blk.") else name
        found.setdefault(part, []).append(kinds[name])
    return found
