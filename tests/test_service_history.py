"""Conversations of devices that outlive the line, the memory and the process."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import speaker
from power_cut import Disk
from service_life import Machine, begun, heard
from test_service import BROKEN
from test_turn import FAN, HEAT

from edgellm.channel import Call, Text
from edgellm.errors import BackendError, BusyError, StaleError, UnknownError
from edgellm.history import journal, session_folder
from edgellm.history.records import Asked
from edgellm.sampling import Sampling
from edgellm.service import Conversations
from edgellm.session import Message
from edgellm.turn import MAX_CALLS


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "sessions")


def test_an_answer_is_there_after_a_restart(machine: Machine) -> None:
    told = []

    async def first(service: Conversations, session: str) -> None:
        answer = service.ask(session, "hällo", number=3)
        assert await answer.saved()
        told.append(await heard(answer))
        assert service.ask(session, "hällo", number=3) is answer
        service.leave(session)

    async def second(service: Conversations, session: str) -> None:
        assert machine.resumed
        answer = service.ask(session, None, number=3)
        assert await answer.saved()
        assert await heard(answer) == told[0]
        assert answer.text == told[0][0]
        assert (await heard(answer, 7))[0] == told[0][0][7:]
        assert (await heard(answer, 1000))[0] == ""
        answer.stop()
        answer.result(1, True, None)
        assert [event async for event in answer][-1] == told[0][1]
        with pytest.raises(StaleError):
            service.ask(session, "hällo", number=2)
        with pytest.raises(UnknownError):
            service.ask(session, None, number=4)

    machine.live(first)
    machine.live(second)


def test_a_conversation_goes_on_after_a_restart_as_if_nothing_had_been(tmp_path: Path) -> None:
    """With a fixed seed, so that both can be compared."""
    options = {"sampling": Sampling(temperature=0), "max_tokens": 20}
    through, cut = Machine(tmp_path / "through", **options), Machine(tmp_path / "cut", **options)
    one: list[str] = []
    other: list[str] = []

    def asks(texts: list[str], *numbers: int) -> Callable[[Conversations, str], Awaitable[None]]:
        async def life(service: Conversations, session: str) -> None:
            for number in numbers:
                answer = service.ask(session, f"question {number}", number=number)
                texts.append((await heard(answer))[0])

        return life

    numbers = range(1, 13)  # more than the context holds
    through.live(asks(one, *numbers))
    for number in numbers:
        cut.live(asks(other, number))
    assert one == other


@pytest.mark.parametrize("before", [0, 1, 9])
def test_an_interrupted_answer_goes_on_with_the_same_words(machine: Machine, before: int) -> None:
    heads, wholes = [], []

    async def converse(service: Conversations, session: str) -> None:
        for number in range(1, before + 1):
            await heard(service.ask(session, f"question {number}", number=number))

    async def interrupted(service: Conversations, session: str) -> None:
        answer = service.ask(session, "and now?", number=20)

        def hold() -> None:
            if answer.answer.generation.drawn == 8:
                machine.executor.gate = threading.Event()

        machine.executor.during = hold
        assert await answer.saved()
        await begun(answer)
        while len(answer.text) < 8:
            await asyncio.sleep(0)
        heads.append(answer.text)

    async def resumed(service: Conversations, session: str) -> None:
        assert machine.resumed
        answer = service.ask(session, None, number=20)
        assert await answer.saved()
        text, done = await heard(answer)
        wholes.append(text)
        assert done.tokens == 30
        offset = len(heads[0].encode())
        assert (await heard(service.ask(session, "and now?", number=20), offset))[0] == text[
            offset:
        ]

    machine.live(converse)
    machine.live(interrupted)
    machine.live(interrupted)  # and again before it could go on
    machine.live(resumed)
    assert len(heads[0]) >= 8
    assert wholes[0].startswith(heads[0])
    assert wholes[0].startswith(heads[1])
    machine.live(resumed)
    assert wholes[0] == wholes[1]


def test_an_interrupted_answer_has_its_deadline_from_where_it_is_new(machine: Machine) -> None:
    """Else it could end before what the device already has."""

    async def interrupted(service: Conversations, session: str) -> None:
        asked = Asked(1, "hello", None, 0.01, None, "7", "toy", 0, 1, 0.0)
        assert await service._registry.save(session, asked)

    async def resumed(service: Conversations, session: str) -> None:
        answer = service.ask(session, None, number=1)

        def hold() -> None:
            if answer.answer.generation.drawn == 12:
                machine.executor.gate = threading.Event()

        machine.executor.during = hold
        while len(answer.text) < 8:
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)
        text, done = await heard(answer, 8)
        assert (text, done.reason) == (answer.text[8:], "deadline")
        assert 8 < len(answer.text) < 30

    machine.live(interrupted)
    machine.live(resumed)


def test_another_question_may_follow_an_interrupted_one(machine: Machine) -> None:
    async def interrupted(service: Conversations, session: str) -> None:
        machine.executor.gate = threading.Event()
        assert await service.ask(session, "forget this", number=1).saved()

    async def another(service: Conversations, session: str) -> None:
        answer = service.ask(session, "hello", number=2)
        await heard(answer)
        prompt = service._sessions[session].messages
        assert [message["content"] for message in prompt] == ["Be brief.", "hello"]
        with pytest.raises(StaleError):
            service.ask(session, "forget this", number=1)

    machine.live(interrupted)
    machine.live(another)


def test_an_interrupted_answer_goes_on_where_the_queue_is_full(machine: Machine) -> None:
    async def interrupted(service: Conversations, session: str) -> None:
        machine.executor.gate = threading.Event()
        assert await service.ask(session, "hello", number=1).saved()

    async def again(service: Conversations, session: str) -> None:
        with contextlib.suppress(BusyError):
            for other in range(100):
                service.ask(f"other {other}", "hello")
        with pytest.raises(BusyError):
            service.ask("one too many", "hello")
        assert await heard(service.ask(session, None, number=1))

    machine.live(interrupted)
    machine.live(again)


def test_a_question_whose_record_was_torn_is_asked_again(machine: Machine) -> None:
    async def interrupted(service: Conversations, session: str) -> None:
        machine.executor.gate = threading.Event()
        assert await service.ask(session, "hello", number=1).saved()

    async def again(service: Conversations, session: str) -> None:
        with pytest.raises(UnknownError):
            service.ask(session, None, number=1)
        assert await heard(service.ask(session, "hello", number=1))

    machine.live(interrupted)
    assert machine.folder is not None
    for file in machine.folder.glob("*.journal"):
        os.truncate(file, file.stat().st_size - 7)
    machine.live(again)


def test_an_interrupted_answer_of_another_model_does_not_go_on(machine: Machine) -> None:
    async def interrupted(service: Conversations, session: str) -> None:
        await heard(service.ask(session, "hello", number=1))
        machine.executor.gate = threading.Event()
        assert await service.ask(session, "and?", number=2).saved()

    async def changed(service: Conversations, session: str) -> None:
        for _ in range(2):
            with pytest.raises(StaleError, match="question 2 was"):
                service.ask(session, "and?", number=2)
        await heard(service.ask(session, "and?", number=3))
        contents = [message["content"] for message in service._sessions[session].messages]
        assert contents[1] == "hello"
        assert contents[3:] == ["and?"]

    machine.live(interrupted)
    machine.options["fingerprint"] = lambda: "another"
    machine.live(changed)


def test_an_answer_that_was_stopped_stays_so(machine: Machine) -> None:
    parts = []

    async def stopped(service: Conversations, session: str) -> None:
        answer = service.ask(session, "hello", number=1)
        async for event in answer.listen(0):
            if isinstance(event, Text):
                answer.stop()
        parts.append(answer.text)

    async def look(service: Conversations, session: str) -> None:
        text, done = await heard(service.ask(session, None, number=1))
        assert (text, done.reason) == (parts[0], "cancel")

    machine.live(stopped)
    machine.live(look)


def test_an_answer_that_was_stopped_behind_its_end_is_kept_as_it_was_told(
    machine: Machine,
) -> None:
    parts = []

    async def stopped(service: Conversations, session: str) -> None:
        answer = service.ask(session, "hello", number=1)
        parts.append(await begun(answer))
        while not answer.ended:
            await asyncio.sleep(0)
        answer.stop()
        assert (await heard(answer))[1].reason == "cancel"

    async def look(service: Conversations, session: str) -> None:
        text, done = await heard(service.ask(session, None, number=1))
        assert (text, done.reason) == (parts[0], "cancel")

    machine.live(stopped)
    machine.live(look)


def test_an_answer_that_failed_has_to_be_asked_anew(machine: Machine) -> None:
    async def fails(service: Conversations, session: str) -> None:
        answer = service.ask(session, BROKEN, number=1)
        assert await answer.saved()
        with pytest.raises(BackendError):
            await heard(answer)

    async def look(service: Conversations, session: str) -> None:
        with pytest.raises(StaleError):
            service.ask(session, BROKEN, number=1)
        await heard(service.ask(session, "hello", number=2))
        assert len(service._sessions[session].messages) == 2

    machine.live(fails)
    machine.live(look)


def test_a_conversation_that_was_forgotten_stays_so(machine: Machine) -> None:
    async def forget(service: Conversations, session: str) -> None:
        service.forget(session)
        assert not list((machine.folder or Path()).glob("*.journal")), "nothing was said yet"
        await heard(service.ask(session, "a secret", number=1))
        service.forget(session)

    async def look(service: Conversations, session: str) -> None:
        with pytest.raises(StaleError):
            service.ask(session, "a secret", number=1)
        await heard(service.ask(session, "hello", number=2))
        contents = [message["content"] for message in service._sessions[session].messages]
        assert contents == ["Be brief.", "hello"]

    machine.live(forget)
    (file,) = (machine.folder or Path()).glob("*.journal")
    assert b"a secret" not in file.read_bytes()
    machine.live(look)


def test_an_answer_that_was_taken_is_still_remembered(machine: Machine) -> None:
    async def test(service: Conversations, session: str) -> None:
        text, _ = await heard(service.ask(session, "hello", number=1))
        service.taken(session, 1)
        service.taken(session, 7)
        assert (await heard(service.ask(session, None, number=1)))[0] == text
        await heard(service.ask(session, "and?", number=2))
        contents = [message["content"] for message in service._sessions[session].messages]
        assert contents == ["Be brief.", "hello", text, "and?"]

    machine.live(test)


def test_a_model_that_goes_on_with_text_remembers_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "s", render=None, system="")
    told = []

    async def ask(service: Conversations, session: str) -> None:
        text, _ = await heard(service.ask(session, "once", number=1))
        assert text.startswith("once")
        told.append(text)

    async def look(service: Conversations, session: str) -> None:
        assert (await heard(service.ask(session, None, number=1)))[0] == told[0]
        service.ask(session, "then", number=2)
        contents = [message["content"] for message in service._sessions[session].messages]
        assert contents == ["once", told[0].removeprefix("once"), "then"]

    machine.live(ask)
    machine.live(look)


def test_answers_go_on_where_the_disk_is_full(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine.folder is not None
    machine.folder.mkdir(mode=0o700)
    disk = Disk(machine.folder)
    full = OSError(errno.ENOSPC, "No space left on device")
    disk.fails = lambda call: full if call == "write" else None
    texts = []

    async def ask(service: Conversations, session: str) -> None:
        answer = service.ask(session, "hello", number=1)
        assert not await answer.saved()
        text, done = await heard(answer)
        assert done.tokens == 30
        service.leave(session)
        service.enter(machine.token, lambda: None)
        assert (await heard(service.ask(session, None, number=1)))[0] == text
        disk.fails = lambda call: None
        answer = service.ask(session, "and?", number=2)
        assert await answer.saved()
        texts.append((await heard(answer))[0])

    async def look(service: Conversations, session: str) -> None:
        assert (await heard(service.ask(session, None, number=2)))[0] == texts[0]
        assert len(service._sessions[session].messages) == 5

    with monkeypatch.context() as patch:
        patch.setattr(journal, "os", disk)
        patch.setattr(session_folder, "os", disk)
        machine.live(ask)
    machine.live(look)


def test_calls_that_were_answered_are_not_made_again(tmp_path: Path) -> None:
    options = {"render": speaker.chat, "sampling": Sampling(temperature=0), "max_tokens": -1}
    machine = Machine(tmp_path / "s", **options)
    heat = "[[call]] heat {}"
    machine.speaks = ('On it. [[call]] fan {"speed": 50}', heat, "Done.", "Yes.", heat)
    prompts: list[list[Message]] = []

    async def interrupted(service: Conversations, session: str) -> None:
        service.declare(session, [FAN, HEAT])
        calls = []
        async for event in service.ask(session, "cool it", number=1).listen(0):
            if isinstance(event, Call):
                calls.append(event.number)
                if event.number == 2:
                    break
                service.ask(session, None, number=1).result(1, True, {"rpm": 900})
        assert calls == [1, 2]

    async def resumed(service: Conversations, session: str) -> None:
        calls, text = [], ""
        async for event in service.ask(session, None, number=1).listen(0):
            if isinstance(event, Call):
                calls.append((event.number, event.name))
                service.ask(session, None, number=1).result(event.number, False, "broken")
            elif isinstance(event, Text):
                text += event.text
        assert calls == [(2, "heat")]
        assert text == "On it. \nDone."
        service.ask(session, "good?", number=2)
        prompts.append(service._sessions[session].messages)
        assert [message["content"] for message in prompts[0]] == [
            *("Be brief.", "cool it", "On it. ", '{"rpm": 900}', "", "error: broken", "Done."),
            "good?",
        ]

    async def much_later(service: Conversations, session: str) -> None:
        await heard(service.ask(session, None, number=2))
        answer = service.ask(session, "again", number=3)
        async for event in answer.listen(0):
            if isinstance(event, Call):
                assert event.number == 1 + 2 * MAX_CALLS, "never one that the device may know"
                break
        else:
            raise AssertionError("the tools are still there")
        messages = service._sessions[session].messages
        assert messages[: len(prompts[0])] == prompts[0]

    machine.live(interrupted)
    machine.live(resumed)
    machine.live(much_later)


def test_tools_that_the_model_cannot_call_are_left_out(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "s")

    async def ask(service: Conversations, session: str) -> None:
        service.declare(session, [FAN])
        service.declare(session, [FAN])
        await heard(service.ask(session, "hello", number=1))

    async def look(service: Conversations, session: str) -> None:
        await heard(service.ask(session, "hello", number=2))
        assert not service._sessions[session].tools
        service.declare(session, [])

    machine.live(ask)
    machine.options["render"] = None
    machine.live(look)


def test_without_a_folder_sessions_live_in_memory(tmp_path: Path) -> None:
    machine = Machine(None)

    async def test(service: Conversations, session: str) -> None:
        answer = service.ask(session, "hello", number=1)
        assert await answer.saved()  # nothing is to be kept
        told = await heard(answer)
        service.leave(session)
        assert service.enter(machine.token, lambda: None).resumed
        service.taken(session, 1)
        assert await heard(service.ask(session, None, number=1)) == told

    machine.live(test)
    assert not list(tmp_path.iterdir())


def test_a_line_that_goes_away_while_the_question_is_written_disturbs_nothing(
    machine: Machine,
) -> None:
    async def test(service: Conversations, session: str) -> None:
        answer = service.ask(session, "hello", number=1)
        waiting = asyncio.create_task(answer.saved())
        await asyncio.sleep(0)
        waiting.cancel()
        assert await answer.saved()
        await heard(answer)

    machine.live(test)


def test_no_limit_is_too_large_to_be_written(machine: Machine) -> None:
    async def ask(service: Conversations, session: str) -> None:
        for number, (tokens, deadline) in enumerate(((2**70, 10**400), (3, math.inf)), 1):
            answer = service.ask(
                session, "hello", deadline_s=deadline, number=number, max_tokens=tokens
            )
            assert await answer.saved()
            await heard(answer)

    async def look(service: Conversations, session: str) -> None:
        assert machine.resumed
        assert (await heard(service.ask(session, None, number=2)))[1].tokens == 3

    machine.live(ask)
    machine.live(look)
