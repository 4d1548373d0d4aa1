from __future__ import annotations

import numpy as np
import pytest

from edgellm.errors import FormatError, UnsupportedError
from edgellm.tokenizer import TokenizerData, make, tokenizer_data_from_gguf

KEY = "tokenizer.ggml."


def metadata(**changes: object) -> dict[str, object]:
    """A byte-level vocabulary's keys with some changed, or left out where None."""
    keys: dict[str, object] = {
        "model": "gpt2",
        "pre": "qwen2",
        "tokens": ["a", "b", "ab", "<|im_end|>"],
        "token_type": np.array([1, 1, 1, 3], dtype=np.int32),
        "merges": ["a b"],
        "eos_token_id": 3,
        **changes,
    }
    return {KEY + key: value for key, value in keys.items() if value is not None}


def spm(**changes: object) -> dict[str, object]:
    scores = np.zeros(4, dtype=np.float32)
    return metadata(**{"model": "llama", "scores": scores, "merges": None, **changes})


def read(keys: dict[str, object]) -> TokenizerData:
    data = tokenizer_data_from_gguf(keys, "x.gguf")
    assert data is not None
    return data


def test_a_byte_level_vocabulary() -> None:
    data = read(metadata(eot_token_id=2, add_bos_token=True, add_eos_token=False))
    assert (data.model, data.pre, data.file) == ("gpt2", "qwen2", "x.gguf")
    assert list(data.tokens) == ["a", "b", "ab", "<|im_end|>"]
    assert list(data.types) == [1, 1, 1, 3]
    assert list(data.merges) == ["a b"]
    assert (data.bos, data.eos, data.unk, data.pad) == (None, 3, None, None)
    assert (data.add_bos, data.add_eos, data.add_space_prefix) == (True, False, None)
    assert data.extra_eog == {2}


def test_a_sentencepiece_vocabulary_has_its_own_defaults() -> None:
    data = read(spm(eos_token_id=None))
    assert (data.bos, data.eos, data.unk) == (1, 2, 0)
    assert list(data.scores) == [0.0] * 4


def test_only_sentencepiece_has_a_space_prefix() -> None:
    assert read(spm(add_space_prefix=True)).add_space_prefix is True
    assert read(metadata(add_space_prefix=True)).add_space_prefix is None


def test_files_without_a_vocabulary() -> None:
    assert tokenizer_data_from_gguf({}, "x.gguf") is None
    assert tokenizer_data_from_gguf({KEY + "model": "no_vocab"}, "x.gguf") is None


def test_minus_one_means_no_token() -> None:
    data = read(metadata(padding_token_id=0xFFFFFFFF, bos_token_id=-1))
    assert (data.bos, data.pad) == (None, None)


@pytest.mark.parametrize(
    ("name", "strips"), [("Phi-3 mini", True), ("tiny-phi3", True), ("x", False)]
)
def test_only_phi_3_swallows_white_space(name: str, strips: bool) -> None:
    tokens = ["<s>", "<|endoftext|>", "<|user|>", "a"]
    types = np.array([3, 3, 3, 1], dtype=np.int32)
    keys = {**spm(tokens=tokens, token_type=types), "general.name": name}
    assert read(keys).rstrip == ({2} if strips else frozenset())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (metadata(model=7), "tokenizer.ggml.model is 7; a string is needed"),
        (metadata(tokens=None), "tokens is 'absent or empty'"),
        (metadata(tokens="ab"), "tokens is 'ab'; an array of strings is needed"),
        (metadata(tokens=["a", 1, "b", "c"]), "an array of strings is needed"),
        (
            metadata(token_type=np.zeros(3, dtype=np.int32)),
            "token_type's length is 3; 4 are needed",
        ),
        (metadata(token_type=np.zeros(4)), "token_type is array.*; an array of numbers is needed"),
        (metadata(token_type=[1, 1, 1, 1]), "an array of numbers is needed"),
        (metadata(merges=None), "merges is 'absent or empty'"),
        (metadata(pre=1), "pre is 1; a string is needed"),
        (metadata(eos_token_id=4), "eos_token_id is 4; an integer from 0 to 3 is needed"),
        (metadata(eos_token_id=True), "eos_token_id is True; an integer from 0 to 3"),
        (metadata(eos_token_id="3"), "eos_token_id is '3'; an integer from 0 to 3"),
        (metadata(add_bos_token=1), "add_bos_token is 1; true or false is needed"),
        (spm(scores=None), "scores is 'absent'"),
        (spm(scores=np.full(4, np.nan, dtype=np.float32)), "finite numbers are needed"),
    ],
)
def test_broken_keys_are_named(keys: dict[str, object], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        tokenizer_data_from_gguf(keys, "x.gguf")


def test_other_kinds_of_tokenizers_are_unsupported_not_broken() -> None:
    with pytest.raises(UnsupportedError, match="'t5'"):
        make(read(metadata(model="t5")))


def test_a_special_token_of_a_strange_type_is_no_crash() -> None:
    with pytest.raises(FormatError, match="eos_token_id is array"):
        read(metadata(eos_token_id=np.zeros(2, dtype=np.int32)))
