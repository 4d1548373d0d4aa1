"""Conversations: prompts from messages, history, what happens when they grow too long."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_executor import BOS, EOS, TURN, VOCAB, ToyExecutor, ToyTokenizer

import edgellm
from edgellm.answer import Answer
from edgellm.channel import Done, Priority, Text
from edgellm.errors import BackendError, BusyError, ContextError, UsageError
from edgellm.generation import SingleSlot, generate
from edgellm.prompt import continued
from edgellm.sampling import Sampling
from edgellm.scheduler import Scheduler
from edgellm.service import Conversations
from edgellm.session import Message
from edgellm.tools.tool import Tool

GREEDY = Sampling(temperature=0)
BROKEN = "\x01"


def test_an_answer_is_computed_with_the_adapters_that_were_chosen() -> None:
    async def test(service: Conversations) -> None:
        texts = {}
        for choice in (None, "a", "a:0.5", "none", "a,b"):
            session = f"session {choice}"
            texts[choice], done = await collect(service.ask(session, "hello", adapter=choice))
            # What others have computed of the same prompt serves only with the same adapters.
            assert bool(done.cached_tokens) == (choice == "a,b")
        assert texts[None] == texts["a,b"]
        assert len(set(texts.values())) == 4
        with pytest.raises(UsageError, match="no adapter is called 'c'; there are a, b"):
            service.ask("new", "hello", adapter="c")

    serve(test, ToyExecutor(context=256, slots=5), adapters=["a", "b"])


def chat(messages: Sequence[Message]) -> str:
    return "".join(f"<turn>{m['role'][0]}{m['content']}<eos>" for m in messages) + "<turn>a"


def serve(
    test: Callable[[Conversations], Awaitable[None]],
    executor: ToyExecutor | None = None,
    tokenizer: ToyTokenizer | None = None,
    **options: Any,
) -> None:
    executor = executor or ToyExecutor(context=256)
    tokenizer = tokenizer or ToyTokenizer()
    options = {
        "render": chat,
        "sampling": GREEDY,
        "max_tokens": 10,
        "control": ["<bos>", "<eos>", "<turn>"],
        **options,
    }

    async def main() -> None:
        async with asyncio.timeout(20), Scheduler(executor, tokenizer, queue=2) as scheduler:
            await test(Conversations(scheduler, tokenizer, **options))

    asyncio.run(main())


async def collect(answer: Answer) -> tuple[str, Done]:
    *texts, done = [event async for event in answer]
    assert isinstance(done, Done)
    return "".join(event.text for event in texts if isinstance(event, Text)), done


def alone(prompt: str, max_tokens: int = 10) -> str:
    tokenizer = ToyTokenizer()
    tokens = tokenizer.encode(prompt, add_special=True, parse_special=True)
    pieces = generate(SingleSlot(ToyExecutor(context=256)), tokenizer, tokens, GREEDY, max_tokens)
    return "".join(piece.text for piece in pieces)


def test_a_conversation_remembers_its_turns_and_computes_only_the_new_ones() -> None:
    async def test(service: Conversations) -> None:
        one, _ = await collect(service.ask("a", "hello"))
        assert one == alone("<turn>uhello<eos><turn>a")
        two, done = await collect(service.ask("a", "and?"))
        prompt = f"<turn>uhello<eos><turn>a{one}<eos><turn>uand?<eos><turn>a"
        assert two == alone(prompt)
        # bos and the first turn; all of the answer but its last token, which was never fed
        assert done.cached_tokens == 1 + 8 + 1 + len(one)

    serve(test)


def test_the_system_message_comes_first_in_every_conversation() -> None:
    async def test(service: Conversations) -> None:
        for session in "ab":
            text, _ = await collect(service.ask(session, "hello"))
            assert text == alone("<turn>sBe brief.<eos><turn>uhello<eos><turn>a")

    serve(test, system="Be brief.")


def test_sessions_do_not_mix() -> None:
    async def test(service: Conversations) -> None:
        answers = [service.ask(name, name * 3) for name in "abcd"]
        for name, answer in zip("abcd", answers, strict=True):
            assert (await collect(answer))[0] == alone(f"<turn>u{name * 3}<eos><turn>a")

    serve(test)


def test_forget_begins_anew_and_keeps_the_system_message() -> None:
    async def test(service: Conversations) -> None:
        one, _ = await collect(service.ask("a", "hello"))
        service.forget("a")
        service.forget("unknown")
        assert await collect(service.ask("a", "hello"))
        answer = service.ask("b", "hello")
        service.forget("b")  # in the middle of an answer
        again = service.ask("b", "hello")
        assert (await collect(answer))[1].reason == "cancel"
        assert (await collect(again))[0] == one

    serve(test, system="S")


def test_a_stopped_answer_stays_in_the_history_as_far_as_it_came() -> None:
    async def test(service: Conversations) -> None:
        answer = service.ask("a", "hello")
        async for _ in answer:
            answer.stop()
        part = answer.text
        assert part
        text, _ = await collect(service.ask("a", "go on"))
        assert text == alone(f"<turn>uhello<eos><turn>a{part}<eos><turn>ugo on<eos><turn>a")
        service.ask("a", "never mind").stop()  # before any text came: as if not asked
        final, _ = await collect(service.ask("a", "bye"))
        assert final == alone(
            f"<turn>uhello<eos><turn>a{part}<eos><turn>ugo on<eos><turn>a{text}<eos>"
            "<turn>ubye<eos><turn>a"
        )

    serve(test)


def test_text_that_was_stopped_before_its_delivery_is_not_in_the_history() -> None:
    async def test(service: Conversations) -> None:
        answer = service.ask("a", "hello")
        events = []
        async for event in answer:
            events.append(event)
            if len(events) == 2:
                while not answer.ended:
                    await asyncio.sleep(0)
                answer.stop()
                answer.stop()
        one, two, end = events
        assert isinstance(end, Done)
        assert (end.reason, end.tokens) == ("cancel", 10)
        part = one.text + two.text
        text, _ = await collect(service.ask("a", "go on"))
        assert text == alone(f"<turn>uhello<eos><turn>a{part}<eos><turn>ugo on<eos><turn>a")

    serve(test)


def test_a_turn_that_failed_is_taken_back() -> None:
    executor = ToyExecutor(context=256)
    executor.fail_on = {ord(BROKEN)}

    async def test(service: Conversations) -> None:
        with pytest.raises(BackendError):
            await collect(service.ask("a", BROKEN))
        text, _ = await collect(service.ask("a", "hello"))
        assert text == alone("<turn>uhello<eos><turn>a")

    serve(test, executor)


def test_busy_leaves_the_conversation_as_it_was() -> None:
    async def test(service: Conversations) -> None:
        answer = service.ask("a", "hello")
        with pytest.raises(BusyError):
            service.ask("a", "and?")
        others = [service.ask(str(index), "x") for index in range(2)]
        with pytest.raises(BusyError):
            service.ask("late", "x")
        one, _ = await collect(answer)
        for other in others:
            await collect(other)
        two, _ = await collect(service.ask("a", "and?"))
        assert two == alone(f"<turn>uhello<eos><turn>a{one}<eos><turn>uand?<eos><turn>a")

    serve(test, ToyExecutor(context=256, slots=1))


def test_a_conversation_that_outgrows_the_context_loses_its_oldest_turns() -> None:
    executor = ToyExecutor(context=128)

    async def test(service: Conversations) -> None:
        lengths = []
        for index in range(12):
            _, done = await collect(service.ask("a", f"question {index}"))
            lengths.append(done.prompt_tokens)
            assert done.tokens == 10
        assert max(lengths) <= 128 - 10
        drops = [b < a for a, b in itertools.pairwise(lengths)]
        assert 1 <= sum(drops) <= 4
        shown = executor.memory[0][executor.memory[0] >= 0]
        prompt = ToyTokenizer().decode([int(token) for token in shown])
        assert prompt.startswith("sBe brief.uquestion")
        assert service.status()["dropped_turns"] == 12 - prompt.count("uquestion") > 0

    serve(test, executor, system="Be brief.")


@pytest.mark.parametrize("system", ["", "Be brief."])
def test_turns_are_dropped_in_few_renderings(system: str) -> None:
    counts: list[int] = []

    def render(messages: Sequence[Message]) -> str:
        counts.append(len(messages))
        return chat(messages)

    async def test(service: Conversations) -> None:
        for number in range(100):
            await collect(service.ask("a", str(number)))
        counts.clear()
        await collect(service.ask("a", "x" * 600))  # more than half of the context
        assert service.status()["dropped_turns"] == 100
        assert counts[-1] == 1 + bool(system)
        assert len(counts) <= 10

    executor = ToyExecutor(context=1000)
    serve(test, executor, render=render, system=system, max_tokens=1)


def test_as_few_turns_are_dropped_as_free_half_of_the_context() -> None:
    async def test(service: Conversations) -> None:
        before = 0
        for number in range(40):
            _, done = await collect(service.ask("a", f"question {number}"))
            turn = len("<u><>a<>") + len(f"question {number}") + 10
            if done.prompt_tokens < before:
                assert 128 - turn < done.prompt_tokens <= 128
            before = done.prompt_tokens
        assert service.status()["dropped_turns"]

    serve(test)


def test_a_single_turn_that_is_too_long_is_refused_and_forgotten() -> None:
    async def test(service: Conversations) -> None:
        with pytest.raises(ContextError, match=r"306 tokens.*256"):
            service.ask("a", "x" * 300)
        text, _ = await collect(service.ask("a", "hello"))
        assert text == alone("<turn>uhello<eos><turn>a")

    serve(test)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(["<eos>", "<turn>", "<bos>", "<", "eos>", "<turn", ">", "x"])))
def test_a_user_cannot_write_control_tokens(parts: list[str]) -> None:
    prompts: list[Sequence[int]] = []

    class Watched(ToyExecutor):
        def run(self, tokens: Sequence[int], *rest: Any) -> Any:
            prompts.append(tokens)
            return super().run(tokens, *rest)

    async def test(service: Conversations) -> None:
        await collect(service.ask("a", "".join(parts)))

    serve(test, Watched(context=256, rows=256), max_tokens=1)
    assert [token for token in prompts[0] if token >= 256] == [BOS, TURN, EOS, TURN]


def test_what_a_session_without_tools_says_does_not_depend_on_those_with() -> None:
    """Else an answer that was interrupted might go on in other words."""
    said: list[str] = []

    async def test(service: Conversations) -> None:
        for _ in range(2):
            service.close("a")
            text, done = await collect(service.ask("a", "[[call]] [[result]]"))
            said.append(f"{text} {done.prompt_tokens}")
            service.declare("b", [Tool("fan")])

    serve(test)
    assert said[0] == said[1]


def test_the_first_token_is_there_once() -> None:
    async def test(service: Conversations) -> None:
        _, done = await collect(service.ask("a", "x"))
        assert done.prompt_tokens == 2

    serve(test, render=lambda messages: "<bos>" + messages[-1]["content"])
    serve(test, render=lambda messages: messages[-1]["content"])

    class NoBos(ToyTokenizer):
        bos = None

        def encode(
            self, text: str, add_special: bool = False, parse_special: bool = False
        ) -> list[int]:
            return super().encode(text, False, parse_special)

    serve(test, tokenizer=NoBos(), render=lambda messages: messages[-1]["content"] + "!")


def test_a_reply_begins_without_the_space_that_the_vocabulary_adds() -> None:
    class Spaced(ToyTokenizer):
        def encode(
            self, text: str, add_special: bool = False, parse_special: bool = False
        ) -> list[int]:
            return super().encode(" " + text, add_special, parse_special)

    class Hello(ToyExecutor):
        def _logits(self, tokens: Any) -> Any:
            said = " Hello!!!!!!!!!!"[len(tokens) - prompt]
            return np.eye(VOCAB, dtype=np.float32)[ord(said)]

    prompt = len(Spaced().encode("hi", add_special=True))

    async def test(service: Conversations) -> None:
        text, _ = await collect(service.ask("a", "hi"))
        assert text.startswith("Hello!")

    serve(
        test,
        executor=Hello(context=64),
        tokenizer=Spaced(),
        render=lambda messages: messages[-1]["content"],
    )


def test_without_a_format_the_model_continues_the_text() -> None:
    async def test(service: Conversations) -> None:
        one, _ = await collect(service.ask("a", "Once <eos>"))
        tokens = [BOS, *b"Once <eos>"]
        pieces = generate(SingleSlot(ToyExecutor(context=256)), ToyTokenizer(), tokens, GREEDY, 10)
        assert one == "Once <eos>" + "".join(piece.text for piece in pieces)
        two, done = await collect(service.ask("a", "Then"))
        tokens = [BOS, *f"{one}\nThen".encode()]
        pieces = generate(SingleSlot(ToyExecutor(context=256)), ToyTokenizer(), tokens, GREEDY, 10)
        assert two == "Then" + "".join(piece.text for piece in pieces)
        assert done.cached_tokens == len(one)

    serve(test, render=None)


def test_without_a_format_an_empty_question_begins_a_text() -> None:
    async def test(service: Conversations) -> None:
        text, done = await collect(service.ask("a", ""))
        assert (len(text), done.prompt_tokens) == (10, 1)

    serve(test, render=None)


def test_continued_puts_each_question_in_a_new_line() -> None:
    turns = [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c")]
    assert continued([Message(role=role, content=text) for role, text in turns]) == "S\nab\nc"


def test_close_stops_and_frees() -> None:
    async def test(service: Conversations) -> None:
        answer = service.ask("a", "hello")
        service.close("a")
        service.close("a")
        assert (await collect(answer))[1].reason == "cancel"
        assert service.status()["sessions"] == 0
        text, _ = await collect(service.ask("a", "hello"))
        assert text == alone("<turn>uhello<eos><turn>a")

    serve(test)


def test_status_says_what_there_is() -> None:
    async def test(service: Conversations) -> None:
        await collect(service.ask("a", "hello"))
        status = service.status()
        assert status["model"] == "toy"
        assert (status["sessions"], status["waiting"], status["context"]) == (1, 0, 256)

    serve(test, about={"model": "toy"})


def test_a_real_model_tells_each_session_its_story_as_if_it_were_alone(shared: Path) -> None:
    stories = shared / "stories260k"
    openings = {"Lily and Tom went to the park": "greedy_128_lily.txt", "": "greedy_256.txt"}

    async def main(model: edgellm.Model) -> None:
        async with Scheduler(model.executor, model.tokenizer) as scheduler:
            service = Conversations(
                scheduler, model.tokenizer, None, sampling=GREEDY, max_tokens=40
            )
            answers = {opening: service.ask(opening, opening) for opening in openings}
            for opening, answer in answers.items():
                text, done = await collect(answer)
                assert done.tokens == 40
                assert (stories / openings[opening]).read_text().startswith(text)
                assert len(text) > len(opening) + 80

    asyncio.run(main(edgellm.load(stories / "stories260K.gguf", exact=True, slots=2)))


def test_an_answer_that_rolls_keeps_the_system_message() -> None:
    executor = ToyExecutor(context=64)

    async def test(service: Conversations) -> None:
        answer = service.ask("a", "hello", Priority.DEVICE, 60.0)
        text, done = await collect(answer)
        assert (len(text), done.reason) == (200, "length")
        begin = ToyTokenizer().encode("<turn>sBe brief.<eos><turn>u", True, True)
        assert answer.answer.generation.tokens[: len(begin)] == begin
        assert answer.answer.generation.rolls > 2

    serve(test, executor, system="Be brief.", max_tokens=200, roll=True)


@pytest.mark.parametrize(("keep", "kept"), [(3, 3), (0, 0), (-1, 17)])
def test_how_much_stays_can_be_told(keep: int, kept: int) -> None:
    async def test(service: Conversations) -> None:
        answer = service.ask("a", "hello there")
        await collect(answer)
        assert (answer.answer.generation.keep, answer.answer.generation.rolls > 0) == (kept, True)

    serve(test, ToyExecutor(context=64), max_tokens=100, roll=True, keep=keep)
