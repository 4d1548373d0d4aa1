"""GGUF files (github.com/ggml-org/ggml, docs/gguf.md), read with every size checked; written."""

from edgellm.gguf.file import GGUFFile, read, write

__all__ = ["GGUFFile", "read", "write"]
