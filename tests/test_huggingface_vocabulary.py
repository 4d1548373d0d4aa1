from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgellm.errors import FormatError, UnsupportedError
from edgellm.tokenizer import (
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    TokenizerData,
    load_tokenizer,
    make,
    tokenizer_data_from_folder,
)

DATA = Path(__file__).parent / "data" / "tokenizers"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def write(folder: Path, name: str, content: object) -> None:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def spm(folder: Path) -> None:
    shutil.copy(DATA / "llama" / "tokenizer.model", folder)


def bpe(folder: Path) -> None:
    shutil.copy(DATA / "gpt-2" / "tokenizer.json", folder)


def old(folder: Path, **config: object) -> None:
    write(folder, "vocab.json", {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3})
    write(folder, "merges.txt", "#version: 0.2\na b\n")
    write(folder, "tokenizer_config.json", config)


def read(folder: Path) -> TokenizerData:
    data = tokenizer_data_from_folder(folder)
    assert data is not None
    return data


def test_a_folder_without_a_tokenizer(folder: Path) -> None:
    write(folder, "config.json", {})
    assert tokenizer_data_from_folder(folder) is None


def test_tokenizer_json_wins(folder: Path) -> None:
    spm(folder)
    bpe(folder)
    assert read(folder).model == "gpt2"


def test_a_sentencepiece_model_brings_its_special_tokens(folder: Path) -> None:
    spm(folder)
    data = read(folder)
    assert (data.bos, data.eos, data.unk, data.pad) == (1, 2, 0, None)
    assert (data.add_bos, data.add_space_prefix) == (None, True)
    assert make(data).encode("", add_special=True) == [1]


def test_tokens_added_to_a_sentencepiece_model(folder: Path) -> None:
    spm(folder)
    write(folder, "added_tokens.json", {"<|user|>": 448, "[▁x]": 449})
    decoder = {"450": {"content": "<end>", "special": True, "rstrip": True}}
    write(folder, "tokenizer_config.json", {"added_tokens_decoder": decoder})
    data = read(folder)
    assert list(data.tokens[448:]) == ["<|user|>", "[ x]", "<end>"]
    assert list(data.types[448:]) == [CONTROL, USER_DEFINED, CONTROL]
    assert data.rstrip == {450}
    ids = make(data).encode("<|user|>[ x]<end>", parse_special=True)
    assert ids == [448, 449, 450]


def test_old_folders_with_vocab_and_merges(folder: Path) -> None:
    old(folder, tokenizer_class="Qwen2Tokenizer")
    write(folder, "added_tokens.json", {"<|im_end|>": 5})
    data = read(folder)
    assert (data.pre, data.eos) == ("qwen2", 3)
    assert list(data.types) == [NORMAL, NORMAL, NORMAL, CONTROL, UNUSED, CONTROL]
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode("aab<|im_end|>", parse_special=True) == [0, 2, 5]
    assert tokenizer.eog == {3, 5}


def test_an_old_folder_of_another_class_is_refused(folder: Path) -> None:
    old(folder, tokenizer_class="CLIPTokenizer")
    with pytest.raises(UnsupportedError, match="tokenizer_class is 'CLIPTokenizer'"):
        read(folder)


def test_special_tokens_by_name(folder: Path) -> None:
    bpe(folder)
    write(folder, "special_tokens_map.json", {"eos_token": "<|user|>", "pad_token": "<|im_end|>"})
    config = {"eos_token": {"content": "<|im_end|>"}, "bos_token": None, "unk_token": "nowhere"}
    write(folder, "tokenizer_config.json", {**config, "add_bos_token": True})
    data = read(folder)
    assert (data.bos, data.eos, data.unk, data.pad) == (None, 2, None, 2)
    assert data.add_bos is True


def test_special_tokens_by_id(folder: Path) -> None:
    bpe(folder)
    write(folder, "config.json", {"bos_token_id": 0, "eos_token_id": 1})
    write(folder, "generation_config.json", {"eos_token_id": [2, 3]})
    data = read(folder)
    assert (data.bos, data.eos) == (0, 2)
    assert data.extra_eog == {1, 2, 3}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", {"eos_token": 3}, "eos_token is 3; it must be a token's text"),
        ("tokenizer_config.json", {"add_bos_token": "yes"}, "add_bos_token is 'yes'"),
        ("generation_config.json", {"eos_token_id": "2"}, "eos_token_id is '2'"),
        ("generation_config.json", {"eos_token_id": [-1]}, "eos_token_id is -1"),
        ("config.json", {"eos_token_id": [1] * 99}, "length of eos_token_id is 99"),
        ("config.json", "[", "isn't JSON"),
    ],
)
def test_broken_settings_are_named(folder: Path, name: str, content: object, message: str) -> None:
    bpe(folder)
    write(folder, name, content)
    with pytest.raises(FormatError, match=message) as caught:
        read(folder)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"added_tokens_decoder": []}, "added_tokens_decoder is"),
        ({"added_tokens_decoder": {"x": {"content": "y"}}}, r"added_tokens_decoder\[x\]"),
        ({"added_tokens_decoder": {"9": 1}}, r"added_tokens_decoder\[9\]"),
        ({"added_tokens_decoder": {"999999": {"content": "y"}}}, "there are only 449 tokens"),
    ],
)
def test_broken_added_tokens_are_named(folder: Path, config: object, message: str) -> None:
    spm(folder)
    write(folder, "tokenizer_config.json", config)
    with pytest.raises(FormatError, match=message):
        read(folder)


@pytest.mark.parametrize(
    ("merges", "message"), [("a b c", "merge 0 is 'a b c'"), ("a\n", "merge 0 is 'a'")]
)
def test_broken_merges_are_named(folder: Path, merges: str, message: str) -> None:
    old(folder)
    write(folder, "merges.txt", merges)
    with pytest.raises(FormatError, match=message):
        read(folder)


def test_merges_must_be_utf_8(folder: Path) -> None:
    old(folder)
    (folder / "merges.txt").write_bytes(b"a \xff")
    with pytest.raises(FormatError, match="it must be UTF-8"):
        read(folder)
