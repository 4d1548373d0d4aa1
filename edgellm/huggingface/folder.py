"""A model folder as one Checkpoint: configuration, tensors, vocabulary, template, origin."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from edgellm import advice, bounded_file, json_file, safetensors, tokenizer
from edgellm.checkpoint import Checkpoint, Provenance, Words
from edgellm.errors import FormatError
from edgellm.huggingface import config as configurations
from edgellm.huggingface.tensors import canonical

MAX_CONFIG = 1 << 20
MAX_TOKENIZER_CONFIG = 16 << 20
"""It lists thousands of added tokens in some models."""
MAX_TEMPLATE = 1 << 20
MAX_CARD = 64 << 10
"""Of README.md, only its head matters."""


def read(folder: str | Path) -> Checkpoint:
    """The model in a folder as `save_pretrained` leaves it.

    Raises FormatError for broken or missing files, UnsupportedError for what edgellm doesn't run,
    UsageError for files that can't be read.
    """
    folder = Path(folder)
    path = folder / "config.json"
    values = json_file.read(path, MAX_CONFIG)
    config, switches = configurations.read(str(path), values)
    stored = safetensors.read_folder(folder)
    return Checkpoint(
        format="safetensors",
        config=config,
        tensors=canonical(str(folder), config, switches, stored),
        **_words(folder, values),
    )


def words(folder: str | Path) -> Words:
    """What the folder says besides its weights; config.json may be absent. Raises as `read`."""
    folder = Path(folder)
    path = folder / "config.json"
    return Words(**_words(folder, json_file.read(path, MAX_CONFIG) if path.is_file() else {}))


def _words(folder: Path, values: dict[str, object]) -> dict[str, Any]:
    return {
        "path": str(folder),
        "tokenizer": tokenizer.tokenizer_data_from_folder(folder),
        "template": template(folder),
        "provenance": _provenance(folder, values),
        "sampling": _sampling(folder / "generation_config.json"),
    }


def _sampling(path: Path) -> advice.Advice:
    return advice.from_folder(str(path), json_file.read(path, MAX_CONFIG)) if path.is_file() else {}


def template(folder: Path) -> str | None:
    """The chat template: chat_template.jinja, chat_template.json or in tokenizer_config.json.

    Of several named ones it is "default", else the first. Raises FormatError, UsageError.
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        raw = bounded_file.read(path, MAX_TEMPLATE)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise FormatError(path, "content", raw[:16], "it must be UTF-8") from None
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        said = json_file.read(path, MAX_TOKENIZER_CONFIG).get("chat_template")
        found = _choose(path, said)
        if found:
            return found
    return None


def _choose(path: Path, said: object) -> str | None:
    if said is None or isinstance(said, str):
        return said
    allowed = "it must be a string, or a list of objects with name and template"
    if not isinstance(said, list) or not said:
        raise FormatError(path, "chat_template", said, allowed)
    named: dict[str, str] = {}
    for entry in said:
        name, source = (
            (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
        )
        if not isinstance(name, str) or not isinstance(source, str):
            raise FormatError(path, "chat_template", entry, allowed)
        named.setdefault(name, source)
    return named.get("default", next(iter(named.values())))


def _provenance(folder: Path, values: dict[str, object]) -> Provenance:
    """What config.json and the head of README.md say about the model's origin."""
    card = _card(folder / "README.md")
    source = values.get("_name_or_path")
    source = source if isinstance(source, str) else ""
    name = card.get("model_name") or source.rstrip("/").rsplit("/", 1)[-1] or folder.resolve().name
    author = source.split("/")[0] if source.count("/") == 1 else ""
    return Provenance(
        name=name,
        licence=card.get("license_name") or card.get("license", ""),
        source=card.get("base_model") or source,
        author=author,
    )


_FIELD = re.compile(r"(license|license_name|model_name|base_model): *(\S[^\n]{0,200})")


def _card(path: Path) -> dict[str, str]:
    """The plain fields of a model card's front matter, between its two lines of dashes; none where
    it can't be read, since nothing but `edgellm info` asks for them."""
    try:
        if not path.is_file():
            return {}
        with path.open("rb") as file:
            text = file.read(MAX_CARD).decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return {}
    if not text.startswith("---\n"):
        return {}
    head, _, _ = text[4:].partition("\n---")
    found = (_FIELD.fullmatch(line.rstrip()) for line in head.split("\n"))
    return {match[1]: match[2].strip("\"'") for match in found if match}
