"""Reference cases of every vocabulary, and what all tokenizers share."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.errors import FormatError, UnsupportedError, UsageError
from edgellm.tokenizer import (
    BYTE,
    CONTROL,
    END_OF_GENERATION,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Tokenizer,
    TokenizerData,
    load_tokenizer,
    make,
)

DATA = Path(__file__).parent / "data" / "tokenizers"
NAMES = sorted(path.name for path in DATA.iterdir())
VOCABULARIES = ["gpt-2", "gpt-neox", "llama-bpe", "llama-spm", "phi-3", "qwen2"]
MODELS = {
    "cerebras_gpt",
    "dolly2_gptneox",
    "falcon_7b",
    "gemma3",
    "llama1",
    "llama32_tied",
    "phi3_4k",
    "qwen2",
    "qwen3",
    "smollm2",
    "stablelm2_1_6b",
    "stablelm_3b",
    "tinyllama_gqa",
}
# Its tokenizer.json has another pre-tokenizer than its GGUF file, from which the cases come.
FOLDERS = MODELS - {"stablelm2_1_6b"}


loaded = functools.cache(load_tokenizer)


def small(special: dict[str, int] | None = None, **fields: object) -> Tokenizer:
    """A tokenizer of the letters a to e, space and the given special tokens (kind by text)."""
    tokens = {"<unk>": UNKNOWN, **dict.fromkeys("▁abcde", NORMAL), **(special or {})}
    settings: dict[str, object] = {
        "add_bos": False,
        "add_space_prefix": False,
        "unk": 0,
        **fields,
    }
    return make(
        TokenizerData(
            model="llama",
            tokens=list(tokens),
            scores=[0.0] * len(tokens),
            types=list(tokens.values()),
            **settings,  # type: ignore[arg-type]
        )
    )


def texts(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    return [tokenizer.decode([i]) for i in ids]


@pytest.mark.parametrize("name", NAMES)
def test_own_cases(name: str) -> None:
    tokenizer = load_tokenizer(DATA / name)
    cases = json.loads((DATA / name / "cases.json").read_text())
    assert len(cases) > 50
    for text, ids, decoded in cases:
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == decoded


@pytest.mark.parametrize("name", VOCABULARIES)
def test_reference_vocabularies(shared: Path, name: str) -> None:
    tokenizer = load_tokenizer(shared / "vocab" / f"ggml-vocab-{name}.gguf")
    for case in json.loads((shared / "vocab" / f"tok_{name}.json").read_text()):
        ids = tokenizer.encode(case["text"], case["add_special"], case["parse_special"])
        assert ids == case["ids"], case["text"]
        assert tokenizer.decode(ids) == case["detok"]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_reference_models(shared: Path, name: str) -> None:
    folder = shared / "models" / name
    tokenizers = [load_tokenizer(folder / "model-f32.gguf")]
    if name in FOLDERS:
        tokenizers.append(load_tokenizer(folder))
    for case in json.loads((folder / "tok_ref.json").read_text()):
        for tokenizer in tokenizers:
            assert tokenizer.encode(case["text"]) == case["ids"], case["text"]
            assert tokenizer.decode(case["ids"]) == case["detok"]


@pytest.mark.parametrize("name", ["gpt-2", "llama"])
@given(data=st.data())
def test_a_stream_gives_what_decode_gives(name: str, data: st.DataObject) -> None:
    tokenizer = loaded(DATA / name)
    ids = data.draw(st.lists(st.integers(0, tokenizer.size - 1), max_size=40))
    visible = [i for i in ids if tokenizer.piece(i)]
    stream = tokenizer.stream()
    pieces = [stream.push(i) for i in ids]
    assert "".join([*pieces, stream.flush()]) == tokenizer.decode(visible)


def test_a_stream_holds_back_half_characters() -> None:
    tokenizer = load_tokenizer(DATA / "llama")
    stream = tokenizer.stream()
    pushed = [stream.push(i) for i in tokenizer.encode("🦙")]
    assert pushed == [" ", "", "", "", "🦙"]
    stream.push(tokenizer.encode("🦙")[1])
    assert stream.flush() == "�"


def test_control_tokens_are_written_by_decode_but_have_no_piece() -> None:
    tokenizer = small({"<s>": CONTROL, "<tool>": USER_DEFINED, "<gone>": UNUSED})
    ids = tokenizer.encode("a<s><tool>", parse_special=True)
    assert tokenizer.decode(ids) == "a<s><tool>"
    assert [tokenizer.piece(i) for i in ids] == [b"a", b"", b"<tool>"]
    assert tokenizer.piece(tokenizer.size - 1) == b""


def test_ids_beyond_the_vocabulary_stand_for_nothing() -> None:
    tokenizer = small()
    assert tokenizer.decode([-1, 2, tokenizer.size, 1 << 40]) == "a"
    assert tokenizer.piece(tokenizer.size) == tokenizer.piece(-1) == b""


def test_control_tokens_need_parse_special_and_user_defined_ones_do_not() -> None:
    tokenizer = small({"<s>": CONTROL, "[b]": USER_DEFINED})
    assert texts(tokenizer, tokenizer.encode("[b]a<s>", parse_special=True)) == ["[b]", "a", "<s>"]
    assert texts(tokenizer, tokenizer.encode("[b]a<s>"))[:2] == ["[b]", "a"]
    assert tokenizer.size - 2 not in tokenizer.encode("[b]a<s>")


def test_the_longest_special_token_wins() -> None:
    tokenizer = small({"bc": USER_DEFINED, "abcd": USER_DEFINED, "cde": USER_DEFINED})
    assert texts(tokenizer, tokenizer.encode("abcde")) == ["abcd", "e"]
    assert texts(tokenizer, tokenizer.encode("bcde")) == ["b", "cde"]


def test_special_tokens_swallow_the_white_space_they_ask_for() -> None:
    special = {"<l>": CONTROL, "<r>": CONTROL}
    tokenizer = small(special, lstrip=frozenset([7]), rstrip=frozenset([8]))
    ids = tokenizer.encode("a <l> b <r> \n c", parse_special=True)
    assert texts(tokenizer, ids) == ["a", "<l>", " ", "b", " ", "<r>", "c"]


@pytest.mark.parametrize("text", END_OF_GENERATION)
def test_tokens_end_a_generation_by_their_text(text: str) -> None:
    tokenizer = small({"<x>": CONTROL, text: NORMAL}, eos=7, extra_eog=frozenset([3]))
    assert tokenizer.eog == {3, 7, 8}
    assert tokenizer.piece(8) == b"", "a control token whatever the file says"
    assert 8 not in tokenizer.encode(text)
    assert tokenizer.encode(text, parse_special=True) == [8]


def test_bos_and_eos_go_around_when_asked() -> None:
    special = {"<s>": CONTROL, "</s>": CONTROL}
    tokenizer = small(special, bos=7, eos=8, add_bos=True, add_eos=True)
    assert tokenizer.encode("a", add_special=True) == [7, 2, 8]
    assert tokenizer.encode("", add_special=True) == [7, 8]
    assert tokenizer.encode("a") == [2]


def test_lone_surrogates_become_replacement_characters() -> None:
    tokenizer = load_tokenizer(DATA / "gpt-2")
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a�b"
    assert tokenizer.decode(tokenizer.encode("\ud83e\udd99")) == "🦙"


def test_an_unknown_kind_of_tokenizer_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="tokenizer model is 'unigram'"):
        make(TokenizerData(model="unigram", tokens=["a"]))


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing: no such file"):
        load_tokenizer(tmp_path / "nothing")
    with pytest.raises(FormatError, match="holds no vocabulary"):
        load_tokenizer(tmp_path)


def test_byte_tokens_stand_for_their_bytes() -> None:
    tokenizer = small({"<0xC3>": BYTE, "<0xa9>": BYTE})
    assert tokenizer.decode([7, 8]) == "é"
    assert tokenizer.piece(7) == b"\xc3"


def test_a_whole_vocabulary_loads_in_less_than_a_second(shared: Path) -> None:
    from time import process_time

    began = process_time()
    load_tokenizer(shared / "vocab" / "ggml-vocab-qwen2.gguf").encode("Hello world")
    assert process_time() - began < 1


def test_a_plugin_may_bring_a_model_of_its_own() -> None:
    from edgellm import hookimpl, plugins, tokenizer

    class Mine:
        @staticmethod
        @hookimpl
        def edgellm_tokenizer(data: TokenizerData) -> object:
            return data.tokens if data.model == "mine" else None

    metadata = {"tokenizer.ggml.model": "mine", "tokenizer.ggml.tokens": ["a", "b"]}
    data = tokenizer.tokenizer_data_from_gguf(metadata, "m.gguf")
    assert data is not None
    with pytest.raises(UnsupportedError, match="mine"):
        tokenizer.make(data)
    manager = plugins.load("tokenizer")
    manager.register(Mine, name="mine")
    try:
        assert tokenizer.make(data) == ["a", "b"]
    finally:
        manager.unregister(name="mine")
