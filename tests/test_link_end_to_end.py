"""The link as it is used: the serial channel of `edgellm serve`, a line that does its worst in real
time, and the client in Python at its other end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from line_simulator import BAD, CLEAN, UNPLUGGED, Conditions
from noisy_line import NoisyLine
from scripted import HOLD, ScriptedService

from edgellm.client import Client
from edgellm_plugins.serial_channel import SerialChannel

SOAK = bool(os.environ.get("EDGELLM_SOAK"))
LETTERS = "abcdefghijklmnopqrstuvwxyz .,\nßäöü€😀\0\x11\x13"


def text_of(question: str) -> str:
    """The answer to a question that is a number: up to 4 KB, the same each time."""
    rng = random.Random(question)
    return "".join(rng.choices(LETTERS, k=rng.randrange(1, 3000)))[: rng.randrange(1, 2400)]


def pieces(question: str) -> list[object]:
    rng = random.Random(question)
    text, cut = text_of(question), []
    while text:
        size = rng.randrange(1, 12)
        cut.append(text[:size])
        text = text[size:]
    return cut


@contextlib.asynccontextmanager
async def linked(
    line: NoisyLine, service: ScriptedService, query: str = ""
) -> AsyncIterator[Client]:
    channel = SerialChannel(f"serial://{line.host.path}{query}")
    serving = asyncio.create_task(channel.serve(service))
    try:
        async with Client(f"serial://{line.device.path}{query}") as client:
            yield client
    finally:
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving


async def answer(client: Client, question: str) -> str:
    async with asyncio.timeout(120):
        return "".join([piece async for piece in client.ask(question)])


@pytest.fixture
def ends(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "ttyUSB0", tmp_path / "ttyUSB1"


@pytest.mark.parametrize(
    ("conditions", "count"),
    [(CLEAN, 3), (BAD, 4), (UNPLUGGED, 3)],
    ids=["clean", "noisy", "noisy and unplugged"],
)
def test_answers_arrive_exactly_once(
    conditions: Conditions, count: int, ends: tuple[Path, Path]
) -> None:
    async def main() -> None:
        service = ScriptedService(pieces)
        async with linked(line, service) as client:
            for number in range(count * 100 if SOAK else count):
                assert await answer(client, str(number)) == text_of(str(number))
                asked = [text for _, text in service.asked]
                assert asked == [str(one) for one in range(number + 1)]
            assert len({session for session, _ in service.asked}) == 1

    with NoisyLine(*ends, conditions, seed=5) as line:
        asyncio.run(main())


def test_an_answer_goes_on_after_the_line_was_gone(ends: tuple[Path, Path]) -> None:
    async def main() -> None:
        service = ScriptedService(lambda _: ["before ", HOLD, "after"])
        async with linked(line, service) as client:
            for number in range(10 if SOAK else 2):
                answer = client.ask(str(number))
                async with asyncio.timeout(20):
                    got = await anext(answer)
                    await asyncio.to_thread(line.unplug)
                    service.release.set()
                    await asyncio.sleep(0.1)
                    await asyncio.to_thread(line.plug)
                    got += "".join([piece async for piece in answer])
                assert got == "before after"
                assert len(service.asked) == number + 1
                service.release.clear()

    with NoisyLine(*ends) as line:
        asyncio.run(main())


def test_a_boards_start_up_noise_is_no_question(
    ends: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        service = ScriptedService(pieces)
        serving = asyncio.create_task(SerialChannel(f"serial://{ends[0]}").serve(service))
        while "listening on" not in capsys.readouterr().err:
            await asyncio.sleep(0.01)
        device = os.open(ends[1], os.O_RDWR | os.O_NOCTTY)
        os.write(device, b"\xfe\0\x8cets Jan  8 2013,rst cause:2\r\npi login: \r\nAT\r\n\0\0\x9f")
        os.close(device)
        async with Client(f"serial://{ends[1]}") as client:
            assert await answer(client, "7") == text_of("7")
        assert [text for _, text in service.asked] == ["7"]
        serving.cancel()
        await asyncio.wait([serving])

    with NoisyLine(*ends):
        asyncio.run(main())


@pytest.mark.parametrize("seed", range(10 if SOAK else 1))
@pytest.mark.parametrize("name", ["built-in", "stories260k"])
def test_a_real_model_over_a_noisy_line_by_a_process_that_is_killed(
    name: str,
    seed: int,
    request: pytest.FixtureRequest,
    ends: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    """All that it tells is byte for byte what it tells alone, greedily."""
    opening, options = "Lily and Tom went to the park", ["--temp", "0", "-c", "128"]
    if name == "stories260k":
        stories: Path = request.getfixturevalue("shared") / name
        options = [str(stories / "stories260K.gguf"), *options]
        options += ["--exact"] if SOAK else []  # takes long to start
    else:
        opening = "Tell me a story."
    edgellm = [sys.executable, "-m", "edgellm"]
    command = [*edgellm, "serve", *options, "--history", str(tmp_path / "sessions")]
    command += ["--channel", f"serial://{ends[0]}"]
    alone = subprocess.run([*edgellm, "run", *options, "-p", opening], capture_output=True)
    expected = alone.stdout.decode().removesuffix("\n")
    assert len(expected) > 10
    if SOAK and name == "stories260k":
        assert expected + "\n" == (stories / "greedy_128_lily.txt").read_text()

    async def main() -> None:
        serving = await asyncio.create_subprocess_exec(*command, stderr=DEVNULL)
        told, kill_at = "", random.Random(seed).randrange(1, len(expected) // 2)
        try:
            async with Client(f"serial://{ends[1]}") as client, asyncio.timeout(120):
                async for piece in client.ask(opening):
                    told += piece
                    if kill_at and len(told) >= kill_at:
                        kill_at = 0
                        serving.kill()
                        await serving.wait()
                        serving = await asyncio.create_subprocess_exec(*command, stderr=DEVNULL)
        finally:
            serving.terminate()
            await serving.wait()
        assert told == expected
        assert not kill_at

    with NoisyLine(*ends, BAD, seed=seed):
        asyncio.run(main())
