"""Prompts: templates in the sandbox, named formats, and the choice between them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import small_models

import edgellm
from edgellm import checkpoint
from edgellm.chat import Chat, choose, for_model, render_chat
from edgellm.chat_format import FORMATS, guess
from edgellm.errors import TemplateError, UsageError
from edgellm.tokenizer import TokenizerData

SYSTEM = {"role": "system", "content": "Be brief"}
HELLO = {"role": "user", "content": "Hello"}
TALK = [SYSTEM, HELLO, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Who?"}]

TURNS = """\
{%- for message in messages %}
    {%- if message.role == 'system' and not loop.first %}
        {{- raise_exception('The system message comes first') }}
    {%- endif %}
    {{- bos_token if loop.first }}[{{ message['role'] }}] {{ message.content | trim }}
{% endfor %}
{% if add_generation_prompt %}
[assistant]
{%- endif %}
"""


def test_a_template_sees_messages_and_tokens() -> None:
    text = render_chat(TALK, template=TURNS, bos_token="<s>")
    assert text == "<s>[system] Be brief\n[user] Hello\n[assistant] Hi\n[user] Who?\n[assistant]"
    assert render_chat([HELLO], template=TURNS, add_generation_prompt=False) == "[user] Hello\n"
    assert edgellm.render_chat is render_chat


def test_a_template_refuses_in_its_own_words() -> None:
    with pytest.raises(TemplateError, match=r"^The system message comes first$"):
        render_chat([HELLO, SYSTEM], template=TURNS)


def test_variables_reach_the_template() -> None:
    template = "{{ 'deep' if enable_thinking else 'quick' }} {{ tools is none }}"
    assert render_chat([HELLO], template=template, enable_thinking=True) == "deep True"
    tools = [{"name": "ö<&>'", "parameters": {"b": 1, "a": None}}]
    text = render_chat([HELLO], template="{{ tools | tojson }}", tools=tools)
    assert text == """[{"name": "ö<&>'", "parameters": {"b": 1, "a": null}}]"""
    pretty = "{{ tools | tojson(indent=2, sort_keys=true) }}"
    text = render_chat([HELLO], template=pretty, tools=tools)
    assert text == json.dumps(tools, indent=2, sort_keys=True, ensure_ascii=False)
    compact = "{{ {'a': [1, 'é']} | tojson(separators=(',', ':'), ensure_ascii=true) }}"
    assert render_chat([HELLO], template=compact) == '{"a":[1,"\\u00e9"]}'


def test_the_clock_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{{ strftime_now('%d %b %Y') }}"
    assert render_chat([HELLO], template=template, now=datetime(2026, 1, 2)) == "02 Jan 2026"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert render_chat([HELLO], template=template) == "02 Jan 1970"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH is 'yesterday'"):
        render_chat([HELLO], template=template)
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    year = render_chat([HELLO], template="{{ strftime_now('%Y') }}")
    assert abs(int(year) - datetime.now(UTC).year) <= 1


def test_content_may_be_a_list_of_text_parts() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    message = {"role": "user", "content": parts}
    assert render_chat([message], template=TURNS) == render_chat([HELLO], template=TURNS)
    assert message["content"] is parts  # the caller's message is left as it was


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"content": "Hello"}, "it must have a role"),
        ("Hello", "it must have a role"),
        ({"role": "user", "content": 3}, "of type int"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "'image_url'; only text"),
    ],
)
def test_messages_that_cannot_be_used(message: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        render_chat([message], format="chatml")


def test_named_formats() -> None:
    def text(format: str, messages: list[dict[str, str]] = TALK) -> str:
        return render_chat(messages, format=format)

    assert text("chatml") == (
        "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert text("llama2") == (
        "[INST] <<SYS>>\nBe brief\n<</SYS>>\n\nHello [/INST] Hi </s><s>[INST] Who? [/INST]"
    )
    assert text("llama3", [HELLO]) == (
        "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert text("gemma").startswith("<start_of_turn>user\nBe brief\n\nHello<end_of_turn>\n")
    assert text("phi3", [HELLO]) == "<|user|>\nHello<|end|>\n<|assistant|>\n"
    assert text("granite", [SYSTEM]) == (
        "<|start_of_role|>system<|end_of_role|>Be brief<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>"
    )
    assert text("vicuna") == ("Be brief\n\nUSER: Hello\nASSISTANT: Hi</s>\nUSER: Who?\nASSISTANT:")
    assert text("none") == "Be brief\nHelloHi\nWho?"
    with_input = {"role": "user", "content": "Translate", "input": "bonjour"}
    assert text("alpaca", [with_input]).endswith(
        "### Instruction:\nTranslate\n\n### Input:\nbonjour\n\n### Response:"
    )
    assert text("alpaca", TALK[:2]) == "Be brief\n\n### Instruction:\nHello\n\n### Response:"
    # What a user writes is never taken for a placeholder.
    assert "{eos}" in text("zephyr", [{"role": "user", "content": "{eos}"}])


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_holds_the_conversation_in_order(name: str) -> None:
    text = render_chat(TALK, format=name)
    places = [text.find(word) for word in ("Hello", "Hi", "Who?")]
    assert -1 not in places
    assert places == sorted(places)
    assert render_chat(TALK, format=name, add_generation_prompt=False) == text.removesuffix(
        FORMATS[name].prompt
    )
    with pytest.raises(TemplateError, match="no role 'judge'"):
        render_chat([{"role": "judge", "content": "x"}], format=name)


def test_what_turns_are_marked_by() -> None:
    chatml = Chat("<|im_start|>{{ role }}<|im_end|>")
    assert chatml.marks("<|im_end|>")
    assert not chatml.marks("<|endoftext|>")
    composed = Chat("{{ '[|' + message['role'] + '|]' }}")
    assert composed.marks("[|assistant|]")
    assert not composed.marks("<|assistant|>")
    assert Chat(format="gemma").marks("<start_of_turn>")
    assert Chat(format="oasst-llama").marks("<|prompter|>")
    assert not Chat(format="gemma").marks("<|im_end|>")


def test_formats_are_chosen_by_name_and_alias() -> None:
    assert choose(format="Falcon-Instruct").format == "falcon"
    assert choose(format="chatml").stop == ("<|im_end|>",)
    with pytest.raises(UsageError, match=r"no chat format 'klingon'; known: alpaca, chatml, dolly"):
        choose(format="klingon")
    with pytest.raises(UsageError, match="a path, a template or a format"):
        render_chat([HELLO])


def test_the_models_own_template_comes_before_a_guess() -> None:
    data = TokenizerData(
        file="m.gguf", model="gpt2", tokens=["<s>", "<|im_start|>", "<|im_end|>"], bos=0, eos=2
    )
    chat = choose(own=TURNS, vocabulary=data)
    assert (chat.name, chat.stop, chat.converses) == ("template", (), True)
    assert chat.render([HELLO]).startswith("<s>[user]")
    chat = choose(own=TURNS, format="zephyr", vocabulary=data)
    assert (chat.name, chat.stop) == ("zephyr", ("<|im_end|>",))
    assert choose(vocabulary=data).name == "chatml"
    assert not choose(name="Pythia 160M").converses


def test_the_template_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    small_models.write_gguf(file, "llama")
    text = render_chat([HELLO], path=file)
    assert text == render_chat([HELLO], template=small_models.TEMPLATE)
    assert render_chat([HELLO], path=str(file), format="llama3").startswith("<|start_header_id|>")
    assert for_model(checkpoint.open(file)).tokens["eos_token"]


@pytest.mark.parametrize(
    ("name", "tokens", "expected"),
    [
        ("", ["<|prompter|>", "<|assistant|>", "<|endoftext|>"], "oasst-pythia"),
        ("", ["<|prompter|>", "<|assistant|>", "</s>"], "oasst-llama"),
        ("", ["<start_of_turn>", "<end_of_turn>"], "gemma"),
        ("", ["<|user|>", "<|assistant|>", "<|end|>"], "phi3"),
        ("", ["### Instruction:", "### Response:\n", "### End"], "dolly"),
        ("", ["<|USER|>", "<|ASSISTANT|>"], "stablelm-alpha"),
        ("alpaca-7b-native", ["a"], "alpaca"),
        ("Vicuna_13B", ["a"], "vicuna"),
        ("falcon 7b instruct", ["a"], "falcon"),
        ("falcon-7b", ["a"], "none"),
        ("TinyLlama-1.1B-Chat", ["a"], "zephyr-tinyllama"),
        ("Llama-2-7b-chat", ["a"], "llama2"),
        ("Phi-3-mini-4k-instruct", ["a"], "phi3"),
        ("stories", ["a"], "none"),
    ],
)
def test_guesses(name: str, tokens: list[str], expected: str) -> None:
    assert guess(name, tokens) == expected


def test_zephyr_takes_the_vocabularys_end_token() -> None:
    chat = Chat(format="zephyr", tokens={"eos_token": "</s>"})
    assert chat.render([HELLO]) == "<|user|>\nHello</s>\n<|assistant|>\n"
    assert chat.stop == ("</s>",)


FULL = [
    {"role": "system", "content": "You are a helpful assistant"},
    HELLO,
    {"role": "assistant", "content": "Hi there"},
    {"role": "user", "content": "Who are you"},
    {"role": "assistant", "content": "   I am an assistant   "},
    {"role": "user", "content": "Another question"},
]


def test_reference_renderings(shared: Path) -> None:
    cases = json.loads((shared / "chat/templates_rendered.json").read_text())["templates"]
    for name, expected in cases.items():
        source = (shared / "chat/templates" / name).read_text()

        def text(messages: list[dict[str, str]], source: str = source) -> str:
            tokens = {"bos_token": "<BOS>", "eos_token": "<EOS>"}
            try:
                return render_chat(messages, template=source, now=datetime(2026, 1, 2), **tokens)
            except TemplateError as error:
                return f"TemplateError: {error}"

        assert text(FULL) == expected.get("full", expected.get("full_error")), name
        assert text(FULL[1:]) == expected["nosys"], name
        # Some of the single turns were rendered with the system message.
        assert expected["single"] in (text([HELLO]), text(FULL[:2])), name


def test_reference_prompts_of_named_formats(shared: Path) -> None:
    reference = json.loads((shared / "chat/seed_prompts.json").read_text())
    talk = reference["conversation"]
    with_input = [{"role": "user", "content": "Translate", "input": "bonjour"}]
    messages = {"single": [talk[1]], "multi": talk, "with_input": with_input}
    for name, case in reference["formats"].items():
        for kind in messages.keys() & case.keys():
            assert render_chat(messages[kind], format=name) == case[kind], (name, kind)
        assert choose(format=name).stop == tuple(case["stop"]), name


def test_a_file_with_a_vocabulary_alone_is_enough(tmp_path: Path) -> None:
    from edgellm import gguf

    template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    gguf.write(
        tmp_path / "v.gguf",
        {
            "general.architecture": "llama",
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": ["a", "b", "ab"],
            "tokenizer.ggml.merges": ["a b"],
            "tokenizer.chat_template": template,
        },
        {},
    )
    messages = [{"role": "user", "content": "hi"}]
    assert render_chat(messages, path=tmp_path / "v.gguf") == "[hi]"


@pytest.mark.parametrize("format", ["chatml", "alpaca", "llama2", "gemma", "granite"])
def test_a_turn_without_content_is_an_empty_one(format: str) -> None:
    def rendered(**content: str | None) -> str:
        turns = [{"role": "user", "content": "hi"}, {"role": "assistant", **content}]
        return render_chat([*turns, {"role": "user", "content": "so"}], format=format)

    assert rendered(content=None) == rendered() == rendered(content="")
