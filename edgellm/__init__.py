"""edgellm: a plugin-based runtime for language models on small machines."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgellm.chat import render_chat
    from edgellm.errors import EdgeError
    from edgellm.hookspecs import hookimpl
    from edgellm.runtime import Model, load
    from edgellm.tokenizer import load_tokenizer

__version__ = "0.1.0"

__all__ = [
    "EdgeError",
    "Model",
    "__version__",
    "hookimpl",
    "load",
    "load_tokenizer",
    "render_chat",
]

# Where each public name lives; imported when first asked for: `import edgellm` costs nothing.
_HOMES = {
    "EdgeError": "errors",
    "Model": "runtime",
    "hookimpl": "hookspecs",
    "load": "runtime",
    "load_tokenizer": "tokenizer",
    "render_chat": "chat",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgellm' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"edgellm.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
