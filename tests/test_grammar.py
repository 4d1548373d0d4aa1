"""Grammars: masks over a vocabulary, ends, schemas that are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import jsonschema
import numpy as np
import pytest
from letters import Letters
from toy_executor import EOS, ToyTokenizer

from edgellm import runtime
from edgellm.errors import BackendError, UsageError
from edgellm.tokenizer import load_tokenizer
from edgellm.tools.call_form import LLAMA, OWN
from edgellm.tools.grammar import KEPT, Grammar, Grammars
from edgellm.tools.tool import Tool


def allowed(grammar: Grammar, text: bytes = b"", size: int = 259) -> set[int]:
    """The tokens that may follow a text of the toy's tokens, a byte each."""
    guide = grammar.guide()
    for byte in text:
        guide.mask(np.zeros(size, np.float32))
        guide.accept(byte)
    return set(np.flatnonzero(np.isfinite(guide.mask(np.zeros(size, np.float32)))).tolist())


def test_only_what_the_grammar_allows_keeps_its_logit() -> None:
    grammar = Grammars(ToyTokenizer()).compile('start: "on" | "off" | /[0-9]{2}/')
    assert allowed(grammar) == set(b"o0123456789")
    assert allowed(grammar, b"o") == set(b"nf")
    guide, logits = grammar.guide(), np.arange(300, dtype=np.float32)  # more than its words
    masked = guide.mask(logits)
    assert masked[ord("o")] == ord("o")
    assert (masked[256:] == -np.inf).all()
    assert logits.tolist() == list(range(300))


def test_it_is_done_where_nothing_may_follow_and_may_end_where_something_may() -> None:
    grammar = Grammars(ToyTokenizer()).compile("start: /[0-9]{1,2}/")
    assert EOS not in allowed(grammar)
    assert allowed(grammar, b"1") == {*b"0123456789", EOS}
    guide = grammar.guide()
    guide.accept(ord("1"))
    assert not guide.done
    guide.accept(ord("2"))
    assert guide.done
    ended = grammar.guide()
    ended.accept(ord("1"))
    ended.accept(EOS)
    assert ended.done


def test_without_an_end_token_it_ends_as_early_as_it_may() -> None:
    letters = Letters([bytes([byte]) for byte in range(128)])
    guide = Grammars(letters).compile("start: /[0-9]{2,9}/").guide()
    guide.accept(ord("1"))
    assert not guide.done
    guide.accept(ord("2"))
    assert guide.done


def test_answers_share_a_grammar_and_nothing_else() -> None:
    grammar = Grammars(ToyTokenizer()).compile('start: "abc"')
    one, other = grammar.guide(), grammar.guide()
    one.accept(ord("a"))
    one.accept(ord("b"))
    other.accept(ord("a"))
    assert np.flatnonzero(np.isfinite(one.mask(np.zeros(259, np.float32)))).tolist() == [ord("c")]
    assert np.flatnonzero(np.isfinite(other.mask(np.zeros(259, np.float32)))).tolist() == [ord("b")]


def test_the_latest_grammars_are_kept() -> None:
    grammars = Grammars(ToyTokenizer())
    first = grammars.of_schema({"const": "a"})
    assert grammars.of_schema({"const": "a"}) is first
    for number in range(KEPT):
        grammars.of_schema({"const": number})
    assert grammars.of_schema({"const": "a"}) is not first


def test_the_grammars_of_tools_are_kept_and_so_is_what_is_wrong_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grammars, tools = Grammars(ToyTokenizer()), [Tool("on"), Tool("off")]
    first = grammars.of_calls(OWN, tools)
    assert grammars.of_calls(OWN, [Tool("on"), Tool("off")]) is first
    assert grammars.of_calls(LLAMA, tools) is not first
    with pytest.raises(UsageError, match="can't be used") as refused:
        grammars.of_schema({"type": "much"})
    monkeypatch.setattr("edgellm.tools.grammar._rules", None)
    with pytest.raises(UsageError, match="can't be used") as again:
        grammars.of_schema({"type": "much"})
    assert again.value is refused.value


def test_what_a_vocabulary_cannot_write_is_an_error() -> None:
    grammar = Grammars(Letters([b"a", b"b"], frozenset({2}), end=2)).compile('start: "ac"')
    guide = grammar.guide()
    guide.accept(0)
    with pytest.raises(BackendError, match="can't write"):
        guide.mask(np.zeros(3, np.float32))


def test_a_text_is_spelled_without_anything_around_it() -> None:
    assert Grammars(ToyTokenizer()).spell("<eos> x") == list(b"<eos> x")


SCHEMAS: dict[str, dict[str, Any]] = {
    "numbers": {"type": "array", "items": {"type": "number", "minimum": -3, "maximum": 3}},
    "nested": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "pattern": "^[A-Z][a-z]{1,5}$"},
            "when": {"type": "string", "format": "date"},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 4},
            "more": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/point"}]},
        },
        "required": ["name", "when", "tags", "more"],
        "additionalProperties": False,
        "$defs": {
            "point": {
                "type": "object",
                "properties": {"x": {"type": "integer", "multipleOf": 5}},
                "required": ["x"],
            }
        },
    },
    "patterns": {
        "type": "object",
        "properties": {
            c: {"anyOf": [{"type": "string", "pattern": f"^{c}*$"}, {"type": "null"}]}
            for c in "abcdefghijkl"
        },
    },
    "joined": {"allOf": [{"$ref": "#/$defs/flag"}], "$defs": {"flag": {"type": "boolean"}}},
    "ours": {"type": "boolean", "x-guidance": {"whitespace_flexible": True}},
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_text_by_a_json_schema_is_valid_by_it(schema: dict[str, Any]) -> None:
    grammar, random = Grammars(ToyTokenizer()).of_schema(schema), np.random.default_rng(1)
    complete = 0
    for _ in range(20):
        guide, text = grammar.guide(), b""
        while not guide.done and len(text) < 400:
            logits = random.normal(size=259).astype(np.float32)
            logits[[EOS, *b']"}']] += 3  # else few come to their end
            token = int(guide.mask(logits).argmax())
            guide.accept(token)
            text += ToyTokenizer().piece(token)
        if guide.done:
            jsonschema.validate(json.loads(text), schema)
            complete += 1
    assert complete >= 15


def deep(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def doubling(depth: int) -> dict[str, Any]:
    """Definitions of which each stands for the next one twice."""
    twice = {str(i): {"allOf": [{"$ref": f"#/$defs/{i + 1}"}] * 2} for i in range(depth)}
    return {**twice, str(depth): {"type": "string"}}


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "nothing"}, "Invalid type"),
        ({"not": {}}, "Unimplemented keys"),
        ({"const": float("nan")}, "isn't made of JSON"),
        ({"const": b""}, "isn't made of JSON"),
        ({"const": "x" * 20_000}, "characters"),
        ({"multipleOf": "1"}, "multipleOf"),
        ({"multipleOf": "x"}, "multipleOf"),
        ({"multipleOf": -1}, "multipleOf"),
        ({"multipleOf": 1e-300}, "multipleOf"),
        ({"type": "integer", "multipleOf": 1_000_003}, "too fine"),
        ({"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}, "too fine"),
        ({"allOf": [{"pattern": f".*{c}.*"} for c in "abcdefghijklmnopqrstuvwxyz"]}, "joins"),
        ({"$ref": "#/$defs/0", "$defs": doubling(40)}, "joins"),
        (deep(200), "nested"),
        (deep(5000), "isn't made of JSON|characters"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_at_once(
    schema: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):  # some would take hours otherwise
        Grammars(ToyTokenizer()).of_schema(schema)


def test_a_schema_may_turn_out_to_be_too_complex() -> None:
    shapes = [
        {"type": "object", "properties": {f"p{i}{j}": {"type": "string"} for j in range(8)}}
        for i in range(60)
    ]
    guide = Grammars(ToyTokenizer()).of_schema({"anyOf": shapes}).guide()
    guide.mask(np.zeros(259, np.float32))
    with pytest.raises(UsageError, match="the grammar is too complex"):
        guide.accept(ord("{"))


def test_a_grammar_that_cannot_be_used_is_refused() -> None:
    grammars = Grammars(ToyTokenizer())
    for rules, reason in (("start: x", "can't be used"), ("#" * 300_000, "characters")):
        with pytest.raises(UsageError, match=reason):
            grammars.compile(rules)


def test_without_llguidance_the_extra_is_named() -> None:
    program = """
import sys
sys.modules["llguidance"] = None
from edgellm import runtime
from edgellm.errors import UsageError
from edgellm.tools.grammar import KEPT, Grammars
for make in (lambda: Grammars(None).compile("start: x"), lambda: Grammars(None).of_schema({})):
    try:
        make()
    except UsageError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.count('pip install "edgellm[tools]"') == 2, done.stderr


@pytest.mark.parametrize("kind", ["default", "llama-spm", "llama-bpe"])
def test_a_real_vocabulary_writes_json(kind: str, request: pytest.FixtureRequest) -> None:
    path = runtime.default_model()
    if kind != "default":
        path = request.getfixturevalue("shared") / "vocab" / f"ggml-vocab-{kind}.gguf"
    tokenizer = load_tokenizer(path)
    schema = {"type": "object", "properties": {"a": {"const": "ü 1"}}, "required": ["a"]}
    guide = Grammars(tokenizer).of_schema({**schema, "additionalProperties": False}).guide()
    random = np.random.default_rng(2)
    tokens: list[int] = []
    while not guide.done:
        logits = random.normal(size=tokenizer.size).astype(np.float32)
        tokens.append(int(guide.mask(logits).argmax()))
        guide.accept(tokens[-1])
    assert b"".join(map(tokenizer.piece, tokens)).decode() == '{"a": "ü 1"}'
