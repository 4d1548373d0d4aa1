"""The sampling that a model's own files advise, as fields of Sampling."""

from __future__ import annotations

from collections.abc import Mapping

from edgellm.errors import FormatError, UsageError
from edgellm.sampling import Sampling

Advice = dict[str, float]

# llama.cpp's keys below "general.sampling.".
_GGUF = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_last_n": "repeat_last_n",
    "penalty_repeat": "repeat_penalty",
    "mirostat": "mirostat",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
}
# transformers' keys in generation_config.json.
_FOLDER = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repetition_penalty": "repeat_penalty",
}


def from_gguf(file: str, metadata: Mapping[str, object]) -> Advice:
    """What a GGUF file's metadata advise. Raises FormatError for a value that can't be used."""
    return _read(file, metadata, {f"general.sampling.{key}": name for key, name in _GGUF.items()})


def from_folder(file: str, values: Mapping[str, object]) -> Advice:
    """What generation_config.json advises, if it asks for sampling at all. Raises FormatError."""
    return _read(file, values, _FOLDER) if values.get("do_sample") is True else {}


def _read(file: str, values: Mapping[str, object], names: Mapping[str, str]) -> Advice:
    advice: Advice = {}
    for key, name in names.items():
        value = values.get(key)
        if value is None:
            continue
        try:
            Sampling(**{name: value})  # type: ignore[arg-type]  # judged by Sampling itself
        except UsageError as error:
            raise FormatError(file, key, value, str(error)) from error
        if isinstance(value, int | float):
            advice[name] = value
    return advice
