from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from edgellm.errors import FormatError, UnsupportedError
from edgellm.huggingface import tokenizer_json
from edgellm.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, TokenizerData

Settings = dict[str, Any]

BYTE_LEVEL: Settings = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
DIGITS: Settings = {"type": "Digits", "individual_digits": True}
REPLACE: Settings = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
PREPEND: Settings = {"type": "Prepend", "prepend": "▁"}
METASPACE: Settings = {
    "type": "Metaspace",
    "replacement": "▁",
    "prepend_scheme": "first",
    "split": False,
}
TEMPLATE: Settings = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "</s>", "type_id": 0}},
    ],
    "special_tokens": {
        "<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]},
        "</s>": {"id": "</s>", "ids": [4], "tokens": ["</s>"]},
    },
}
PLAIN: Settings = {
    "version": "1.0",
    "added_tokens": [
        {"id": 3, "content": "<s>", "special": True},
        {"id": 4, "content": "</s>", "special": True, "rstrip": True},
        {"id": 6, "content": "<tool>", "special": False, "lstrip": True},
        {"id": 7, "content": "<|end|>", "special": False},
    ],
    "normalizer": None,
    "pre_tokenizer": BYTE_LEVEL,
    "post_processor": None,
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
}
FALLBACK: Settings = {
    **PLAIN,
    "normalizer": {"type": "Sequence", "normalizers": [PREPEND, REPLACE]},
    "pre_tokenizer": None,
    "model": {
        "type": "BPE",
        "byte_fallback": True,
        "unk_token": "a",
        "vocab": {"a": 0, "<0x0A>": 1, "▁": 2},
        "merges": [["▁", "a"]],
    },
}


def changed(settings: Settings, path: str, value: object) -> Settings:
    settings = copy.deepcopy(settings)
    *parents, last = path.split(".")
    section = settings
    for parent in parents:
        section = section[parent]
    section[last] = value
    return settings


def sequence(kind: str, *parts: object) -> Settings:
    return {"type": "Sequence", kind: list(parts)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokenizer.json"


def read(file: Path, settings: Settings) -> TokenizerData:
    file.write_text(json.dumps(settings))
    return tokenizer_json.read(file)


def test_a_byte_level_tokenizer(file: Path) -> None:
    data = read(file, PLAIN)
    assert (data.model, data.pre, data.splits) == ("gpt2", "gpt-2", ("gpt-2",))
    assert list(data.tokens) == ["a", "b", "ab", "<s>", "</s>", "[PAD5]", "<tool>", "<|end|>"]
    kinds = [NORMAL, NORMAL, NORMAL, CONTROL, CONTROL, UNUSED, USER_DEFINED, CONTROL]
    assert list(data.types) == kinds
    assert list(data.merges) == ["a b"]
    assert (data.lstrip, data.rstrip) == ({6}, {4})
    assert (data.add_bos, data.add_eos, data.add_space_prefix) == (False, False, False)


def test_a_byte_fallback_tokenizer(file: Path) -> None:
    data = read(file, FALLBACK)
    assert (data.model, data.add_space_prefix, data.prefix_once) == ("llama", True, False)
    assert list(data.types)[:3] == [UNKNOWN, BYTE, NORMAL]
    assert list(data.merges) == ["▁ a"]
    assert data.unk == 0


@pytest.mark.parametrize(
    ("pre", "steps"),
    [
        (sequence("pretokenizers", DIGITS, BYTE_LEVEL), ("digits", "gpt-2")),
        (
            sequence(
                "pretokenizers",
                {"type": "Punctuation", "behavior": "Contiguous"},
                BYTE_LEVEL,
                {
                    "type": "Split",
                    "pattern": {"Regex": "[0-9][0-9][0-9]"},
                    "behavior": "Isolated",
                    "invert": False,
                },
            ),
            ("punctuation", "gpt-2", "three-digits"),
        ),
        ({**BYTE_LEVEL, "use_regex": False}, ()),
    ],
)
def test_pre_tokenizing_steps(file: Path, pre: Settings, steps: tuple[str, ...]) -> None:
    assert read(file, changed(PLAIN, "pre_tokenizer", pre)).splits == steps


def test_the_template_says_what_goes_around_a_text(file: Path) -> None:
    data = read(file, changed(PLAIN, "post_processor", TEMPLATE))
    assert (data.bos, data.eos, data.add_bos, data.add_eos) == (3, 4, True, True)


def test_normal_forms(file: Path) -> None:
    form = sequence("normalizers", {"type": "NFC"})
    assert read(file, changed(PLAIN, "normalizer", form)).normal_form == "NFC"


@pytest.mark.parametrize(
    ("scheme", "prefix", "once"),
    [("first", True, True), ("always", True, False), ("never", False, False)],
)
def test_metaspace_says_where_a_space_goes(
    file: Path, scheme: str, prefix: bool, once: bool
) -> None:
    settings = changed(FALLBACK, "normalizer", None)
    settings["pre_tokenizer"] = {**METASPACE, "prepend_scheme": scheme}
    data = read(file, settings)
    assert (data.add_space_prefix, data.prefix_once) == (prefix, once)
    assert data.prefix_lacking


def test_gemma_replaces_spaces_only(file: Path) -> None:
    settings = changed(FALLBACK, "normalizer", REPLACE)
    settings["pre_tokenizer"] = {"type": "Split", "pattern": {"String": " "}}
    assert read(file, settings).add_space_prefix is False


SPLIT: Settings = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (changed(PLAIN, "model.type", "Unigram"), "model.type is 'Unigram'"),
        (changed(PLAIN, "model.dropout", 0.1), "model.dropout is 0.1"),
        (changed(PLAIN, "model.end_of_word_suffix", "</w>"), "model.end_of_word_suffix"),
        (changed(PLAIN, "normalizer", {"type": "Lowercase"}), "normalizer is 'Lowercase'"),
        (changed(PLAIN, "pre_tokenizer", {"type": "Whitespace"}), "pre_tokenizer is 'Whitespace'"),
        (changed(PLAIN, "pre_tokenizer", None), "pre_tokenizer is None; byte-level"),
        (changed(PLAIN, "pre_tokenizer", SPLIT), r"pattern is '\(a\+\)\+\$'"),
        (changed(PLAIN, "post_processor", {"type": "BertProcessing"}), "is 'BertProcessing'"),
        (changed(PLAIN, "decoder", {"type": "WordPiece"}), "decoder is 'WordPiece'"),
        (changed(FALLBACK, "normalizer", None), "it must replace spaces"),
        (changed(FALLBACK, "pre_tokenizer", {**METASPACE, "split": True}), "split is True"),
        (changed(FALLBACK, "normalizer", {"type": "Precompiled"}), "normalizer is 'Precompiled'"),
    ],
)
def test_components_that_are_not_known_are_refused_by_name(
    file: Path, settings: Settings, message: str
) -> None:
    with pytest.raises(UnsupportedError, match=message):
        read(file, settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (changed(PLAIN, "model", None), "model is None; it must be an object"),
        (changed(PLAIN, "model.vocab", []), "vocab is 'list'; it must be a non-empty object"),
        (changed(PLAIN, "model.vocab", {"a": -1}), "id of 'a' is -1"),
        (changed(PLAIN, "model.vocab", {"a": True}), "id of 'a' is True"),
        (changed(PLAIN, "model.vocab", {"a": 0, "b": 0}), "its tokens share 1 ids"),
        (changed(PLAIN, "model.vocab", {"a": 1 << 19}), "there are only 5 tokens"),
        (changed(PLAIN, "model.merges", {}), "merges is {}; it must be a list"),
        (changed(PLAIN, "model.merges", ["a b c"]), "merges is 'a b c'; it must be a pair"),
        (changed(PLAIN, "model.merges", [["a", 1]]), "it must be two strings"),
        (changed(PLAIN, "added_tokens", {}), "added_tokens is {}"),
        (changed(PLAIN, "added_tokens", [{"id": 1 << 30, "content": "x"}]), "id of an added"),
        (changed(PLAIN, "added_tokens", [{"id": 1, "content": ""}]), "content of added token 1"),
        (changed(PLAIN, "added_tokens", [{"id": 1, "content": "x", "special": 1}]), "special of"),
        (changed(PLAIN, "pre_tokenizer", {}), "it must be an object with a type"),
        (changed(PLAIN, "pre_tokenizer", {"type": "Sequence"}), "pretokenizers is None"),
        (changed(PLAIN, "pre_tokenizer", {**BYTE_LEVEL, "use_regex": 1}), "use_regex is 1"),
        (
            changed(PLAIN, "post_processor", {**TEMPLATE, "special_tokens": {}}),
            "it must name one token",
        ),
        (changed(PLAIN, "post_processor", {**TEMPLATE, "single": 1}), "single is 1"),
    ],
)
def test_broken_sections_are_named(file: Path, settings: Settings, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read(file, settings)
