"""JSON from outside: what is allowed comes through, what isn't is named."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm import json_file
from edgellm.errors import FormatError, UsageError

LIMIT = 1 << 16

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=20,
)


@settings(max_examples=100)
@given(st.dictionaries(st.text(st.characters(codec="utf-8")), values), st.booleans())
def test_sound_json_comes_through(found: dict[str, object], ascii_only: bool) -> None:
    raw = json.dumps(found, ensure_ascii=ascii_only).encode()
    assert json_file.parse(raw, "x.json") == found


@settings(max_examples=200)
@given(st.binary(max_size=40))
def test_other_bytes_raise_nothing_but_a_format_error(raw: bytes) -> None:
    for text in (raw, b'{"a":' + raw + b"}", b'{"' + raw + b'":1}'):
        with contextlib.suppress(FormatError):
            json_file.parse(text, "x.json")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "isn't JSON"),
        (b'{"a": 1', "isn't JSON"),
        (b"[]", "content is 'list'; it must be an object"),
        (b"null", "content is 'NoneType'"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "key is 'c'; it must not occur twice"),
        (b'{"a": NaN}', "number is 'NaN'; it must be finite"),
        (b'{"a": -Infinity}', "number is '-Infinity'"),
        (b'{"a": 1e999}', "number is '1e999'"),
        (b'{"a": ' + b"9" * 21 + b"}", "up to 20 digits"),
        (b'{"a": ' + b"9" * 5000 + b"}", "up to 20 digits"),
        (b'{"a": "\xff"}', "it must be UTF-8"),
        (b'{"a": "\\ud800"}', "half a surrogate pair"),
        (b'{"a": {"\\udfff": 1}}', "half a surrogate pair"),
        (b'{"a": ["\\ude00\\ud83d"]}', "half a surrogate pair"),
        (b'{"a": ' + b"[" * 32 + b"]" * 32 + b"}", "nesting is 'over 32'"),
        (b'{"a": ' + b"[" * 100_000, "nesting is 'over 32'"),
        (b'{"a": ' + b"[" * 3000 + b"]" * 3000 + b"}", "nesting is 'over 32'"),
        (b'{"a":' * 3000 + b"0" + b"}" * 3000, "nesting is 'over 32'"),
        (b'{"a": [' + b"[]," * 600_000 + b"0]}", "memory for its values"),
        (b'{"a": [' + b'"",' * 700_000 + b"0]}", "memory for its values"),
        (b'{"a": [' + b"0," * 1_800_000 + b"0]}", "memory for its values"),
    ],
)
def test_what_is_wrong_is_named(raw: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        json_file.parse(raw, "x.json")
    assert message in str(caught.value)
    assert str(caught.value).startswith("x.json: ")
    assert "\n" not in str(caught.value)


def test_whole_surrogate_pairs_and_nesting_up_to_the_limit_are_allowed() -> None:
    assert json_file.parse(b'{"a": "\\ud83d\\ude00"}', "x") == {"a": "\U0001f600"}
    json_file.parse(b'{"a": ' + b"[" * 31 + b"]" * 31 + b"}", "x")


def test_files_are_bounded_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a": 1}'.ljust(100))
    assert json_file.read(path, 100) == {"a": 1}
    with pytest.raises(FormatError, match="size is 100; up to 99 bytes"):
        json_file.read(path, 99)
    with pytest.raises(UsageError, match="No such file"):
        json_file.read(tmp_path / "none.json", LIMIT)


def test_the_largest_vocabularies_are_allowed() -> None:
    """A third as many tokens and merges as Gemma's, with its indentation: enough for the text's
    own size to be what allows them."""
    vocabulary = {f"token {i} \U0001f600": i for i in range(80_000)}
    merges = [[f"left{i}", f"right{i}"] for i in range(160_000)]
    found: dict[str, object] = {"model": {"vocab": vocabulary, "merges": merges}}
    text = json.dumps(found, indent=2, ensure_ascii=False).encode()
    assert json_file.parse(text, "x") == found


def test_a_vocabulary_with_one_key_twice_is_refused_quickly() -> None:
    text = ",".join(f'"token{i}":{i}' for i in range(100_000))
    start = time.process_time()
    with pytest.raises(FormatError, match="token99999"):
        json_file.parse(f'{{{text},"token99999":1}}'.encode(), "x")
    assert time.process_time() - start < 1
