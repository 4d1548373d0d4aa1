"""Hugging Face model folders: config.json, safetensors, tokenizer files and chat template."""

from edgellm.huggingface.folder import read, words

__all__ = ["read", "words"]
