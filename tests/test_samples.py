"""Data files: what is learnt of a sample, and what is refused, with the line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgellm import chat, checkpoint, runtime, tokenizer
from edgellm.errors import FormatError, UsageError
from edgellm.tools.tool import Tool
from edgellm.training import prompt_form
from edgellm.training.samples import Reader, Sample


@pytest.fixture(scope="module")
def reader() -> Reader:
    base = checkpoint.open(runtime.default_model())
    assert base.tokenizer is not None
    return Reader(tokenizer.make(base.tokenizer), chat.for_model(base))


def texts(reader: Reader, sample: Sample) -> tuple[str, str]:
    """All of a sample, and what is learnt of it."""
    tokens = sample.tokens.tolist()
    learnt = [token for token, is_learnt in zip(tokens, sample.learnt, strict=True) if is_learnt]
    return reader.tokenizer.decode(tokens), reader.tokenizer.decode(learnt)


def lines(path: Path, *samples: object) -> Path:
    path.write_text("".join(json.dumps(sample) + "\n\n" for sample in samples), encoding="utf-8")
    return path


def test_answers_of_a_chat_are_learnt_with_their_end(reader: Reader, tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "lamp on"},
        {"role": "assistant", "content": "The lamp is on."},
        {"role": "user", "content": "thanks"},
        {"role": "assistant", "content": "You're welcome."},
    ]
    own = Reader(reader.tokenizer, chat.Chat(format="chatml"))
    (sample,) = own.read(lines(tmp_path / "a.jsonl", {"messages": messages}))
    whole, learnt = texts(own, sample)
    assert whole == (
        "<|im_start|>user\nlamp on<|im_end|>\n<|im_start|>assistant\nThe lamp is on.<|im_end|>\n"
        "<|im_start|>user\nthanks<|im_end|>\n<|im_start|>assistant\nYou're welcome.<|im_end|>"
    )
    assert learnt == "The lamp is on.<|im_end|>You're welcome.<|im_end|>"


def test_a_prompt_is_read_as_the_service_asks_it(reader: Reader, tmp_path: Path) -> None:
    """Token for token what the model gets when it's asked."""
    question = [{"role": "user", "content": "is the door shut"}]
    answer = {"role": "assistant", "content": "It is."}
    (sample,) = reader.read(lines(tmp_path / "a.jsonl", {"messages": [*question, answer]}))
    asked = tokenizer.prompt_ids(reader.tokenizer, reader.chat.render(question))
    assert sample.tokens[: len(asked)].tolist() == asked
    assert not sample.learnt[: len(asked)].any()
    assert sample.learnt[len(asked) :].all()


def test_turns_that_a_template_shows_otherwise_later_are_samples_of_their_own(
    reader: Reader, tmp_path: Path
) -> None:
    """Tools stand after the newest question."""
    tool = {"type": "function", "function": {"name": "lamp", "description": "Switches it"}}
    messages = [
        {"role": "user", "content": "on"},
        {"role": "assistant", "content": "OK, done."},
        {"role": "user", "content": "off"},
        {"role": "assistant", "content": "Done."},
    ]
    own = Reader(reader.tokenizer, chat.Chat(prompt_form.TEMPLATE))
    sample = {"messages": messages, "tools": [tool]}
    first, second = own.read(lines(tmp_path / "a.jsonl", sample))
    shown = "<|im_start|>tools\tlamp: Switches it #1<|im_end|>\n"
    for found, learnt in ((first, "OK, done.<|im_end|>"), (second, "Done.<|im_end|>")):
        whole, answer = texts(own, found)
        assert (whole.count(shown), answer) == (1, learnt)
    assert "on<|im_end|>\n<|im_start|>assistant\nOK, done." in texts(own, second)[0]


def test_chats_with_a_device_s_tools(reader: Reader) -> None:
    """The example that the README names."""
    path = Path(__file__).parent / "data" / "beehive" / "examples.jsonl"
    own = Reader(reader.tokenizer, chat.Chat(prompt_form.TEMPLATE))
    chats = [json.loads(line) for line in path.read_text().splitlines()]
    asked = [m["content"] for talk in chats for m in talk["messages"] if m["role"] == "user"]
    samples = own.read(path)
    assert (len(chats), len(samples), len(asked)) == (200, len(asked), len(set(asked)))
    for talk in chats:
        declared = {tool["function"]["name"]: tool["function"] for tool in talk["tools"]}
        for call in (call for m in talk["messages"] for call in m.get("tool_calls", ())):
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            tool = Tool(name, "", declared[name]["parameters"])
            assert tool.schema.mismatch(arguments) is None
    held_out = json.loads((path.parent / "requests.json").read_text())
    questions = [said for device in held_out for talk in device["talks"] for said, _ in talk]
    assert len(questions) == 100
    assert not set(questions) & set(asked)


def test_completions_and_texts(reader: Reader, tmp_path: Path) -> None:
    first, second = reader.read(
        lines(tmp_path / "a.jsonl", {"prompt": "1 + 1 =", "completion": " 2"}, {"text": "so it is"})
    )
    assert texts(reader, first) == ("1 + 1 = 2<|im_end|>", " 2<|im_end|>")
    assert texts(reader, second) == ("so it is", "so it is")


def test_a_file_of_plain_text_is_one_sample(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("First line.\nSecond line.\n")
    (sample,) = reader.read(path)
    assert texts(reader, sample)[1] == "First line.\nSecond line.\n"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 3: text at line 1"),
        ("[1]", "line 3: content is 'list'"),
        ('{"a": 1}', "line 3: keys is 'a'"),
        ('{"text": 5}', "line 3: text is 5"),
        ('{"prompt": "a"}', "line 3: completion is None"),
        ('{"messages": []}', "line 3: messages is 'list'"),
        ('{"messages": [{"role": "user"}]}', "line 3: messages is 1"),
        ('{"messages": [5]}', "line 3: message 1 is 5"),
        ('{"messages": [{"role": "assistant", "content": {}}]}', "line 3: messages is 1"),
        ('{"messages": [{"role": "user", "content": "a"}], "tools": 1}', "line 3: tools is 'int'"),
        ('{"text": "\\ud800"}', "line 3: string"),
    ],
)
def test_a_bad_line_is_named(reader: Reader, tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "fine"}\n\n' + line + "\n")
    with pytest.raises(FormatError) as caught:
        reader.read(path)
    assert says in str(caught.value)


def test_files_that_hold_nothing_to_learn(reader: Reader, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text(" \n")
    with pytest.raises(FormatError, match="nothing"):
        reader.read(empty)
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"one\ntwo \xe4\n")
    with pytest.raises(FormatError, match="line 2"):
        reader.read(latin)
    with pytest.raises(UsageError):
        reader.read(tmp_path / "absent.jsonl")
