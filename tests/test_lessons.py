"""The default model's lessons as chats that any training can read."""

from __future__ import annotations

import json
from pathlib import Path

from edgellm import chat, checkpoint, runtime, tokenizer
from edgellm.tools.tool import Tool
from edgellm.training import lessons
from edgellm.training.samples import Reader


def test_lessons_are_written_as_chats_that_can_be_learnt(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    assert lessons.main([str(path), "--count", "60"]) == 0
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(found) == 60
    called = 0
    for each in found:
        names = {Tool(**one["function"]).name for one in each.get("tools", ())}
        for message in each["messages"]:
            for call in message.get("tool_calls", ()):
                assert call["function"]["name"] in names
                called += 1
    assert called > 20
    assert 0 < sum("tools" not in each for each in found) < 20
    base = checkpoint.open(runtime.default_model())
    assert base.tokenizer
    samples = Reader(tokenizer.make(base.tokenizer), chat.for_model(base)).read(path)
    assert len(samples) >= 60
    assert all(sample.learnt.any() for sample in samples)


def test_the_same_seed_gives_the_same_lessons(tmp_path: Path) -> None:
    texts = []
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        path = tmp_path / name
        lessons.main([str(path), "--count", "5", "--seed", seed])
        texts.append(path.read_text())
    assert texts[0] == texts[1] != texts[2]
