"""edgellm/governor.py: recorded and made heat, all the firmware's bits, recovery; and answers that
stay what they are meanwhile."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from toy_executor import ToyExecutor, ToyTokenizer

from edgellm import cli, governor
from edgellm.answer import Request
from edgellm.channel import Done, Text
from edgellm.commands import host
from edgellm.governor import CALM_S, INTERVAL_S, LIMIT_C, LONGEST_CALM_S, Gear, Governor, gears
from edgellm.sampling import Sampling
from edgellm.scheduler import Scheduler
from edgellm.sensors import Reading, Sensors
from edgellm.session import Session

BOARDS = Path(__file__).parent / "data" / "boards"
COOL = Reading(50.0, 0)


class Machine:
    """A governor, a clock of its own, and what came of each look."""

    def __init__(self, threads: int = 4, by_clock: bool = False) -> None:
        self.now = 0.0
        self.notices: list[str] = []
        self.shifts: list[tuple[float, Gear]] = []
        self.governor = Governor(
            threads,
            lambda gear: self.shifts.append((self.now, gear)),
            lambda text, holds: self.notices.append(text),
            by_clock=by_clock,
        )

    def look(self, reading: Reading, times: int = 1, busy: bool = True) -> Gear:
        for _ in range(times):
            self.governor.look(reading, self.now, busy)
            self.now += INTERVAL_S
        return self.governor.gear

    def level(self) -> int:
        return gears(4).index(self.governor.gear)


def test_from_all_threads_to_pauses() -> None:
    assert gears(4) == [Gear(4), Gear(3), Gear(2), Gear(1)] + [
        Gear(1, d) for d in (0.75, 0.5, 0.25)
    ]
    assert [gear.threads for gear in gears(8)] == [8, 6, 4, 2, 1, 1, 1, 1]
    assert [gear.duty for gear in gears(1)] == [1, 0.75, 0.5, 0.25]


@pytest.fixture
def pi(tmp_path: Path) -> Path:
    """The tree of a Raspberry Pi 5, to be changed."""
    root = tmp_path / "root"
    shutil.copytree(BOARDS / "raspberry-pi-5", root)
    return root


def sawtooth(teeth: int = 3, seconds: int = 600) -> Iterator[float]:
    """Degrees at each look: from 45 up to 90 and down again."""
    looks = round(seconds / INTERVAL_S)
    for _ in range(teeth):
        for look in range(looks):
            yield 45 + 90 * min(look, looks - look) / looks
    yield from [45] * (looks * 4)


def test_a_sawtooth_of_heat(pi: Path) -> None:
    """The tree of a board changes; what the governor reads there decides."""
    heat = pi / "sys/class/thermal/thermal_zone0/temp"
    eyes, machine, levels = Sensors(pi, ["cpu-thermal"]), Machine(), []
    felt = list(sawtooth())
    for celsius in felt:
        heat.write_text(f"{round(celsius * 1000)}\n")
        machine.look(eyes.read())
        levels.append(machine.level())
    for (before, after), celsius in zip(pairwise(levels), felt[1:], strict=True):
        if after > before:
            assert celsius >= LIMIT_C
        elif after < before:
            assert celsius <= LIMIT_C - governor.BAND_C
    hot = [level for level, celsius in zip(levels, felt, strict=True) if celsius >= 89]
    assert min(hot) == len(gears(4)) - 1  # at the tip it works a quarter of the time
    assert levels[-1] == 0
    turns = [a < b for (a, b) in pairwise(levels) if a != b]
    assert sum(a != b for a, b in pairwise(turns)) <= 2 * 3 - 1  # down and up once a tooth
    said = [notice.partition(":")[0] for notice in machine.notices]
    assert said[0] == "the processor has 80 °C"
    assert said[-1] == "back to full speed"
    assert len(said) <= 3 * 3  # slower, with pauses, and as before


def test_heat_settles_where_the_machine_can_stay() -> None:
    """A machine that would reach 95 °C: each gear's heat leads somewhere else, slowly."""
    for ends in ((95, 88, 76, 65), (95, 84, 70, 60)):
        machine, celsius, hottest = Machine(), 45.0, 0.0
        for _ in range(round(4 * 3600 / INTERVAL_S)):
            gear = machine.look(Reading(celsius, 0))
            goal = 40 + (ends[4 - gear.threads] - 40) * gear.duty
            celsius += (goal - celsius) * INTERVAL_S / 60
            hottest = max(hottest, celsius)
        assert hottest < LIMIT_C + governor.MUCH_C
        late = [at for at, _ in machine.shifts if at > 3600]
        assert len(late) <= 3 * 3600 / LONGEST_CALM_S * 2, "it goes up and down"
        assert gear.threads >= 2


def test_much_too_hot_is_no_time_to_wait() -> None:
    machine = Machine()
    machine.look(Reading(LIMIT_C), times=3)
    assert machine.level() == 1
    machine.look(Reading(LIMIT_C + governor.MUCH_C), times=5)
    assert machine.level() == 6
    assert machine.look(Reading(120.0), times=99) == Gear(1, 0.25)


WEAK = "the supply's voltage is too low: working with 3 threads; a stronger power supply or"
THROTTLED = "the processor has 50 °C: working with 3 threads; a cooler or more air helps"


@pytest.mark.parametrize(
    ("bits", "level", "said", "status"),
    [
        (0x1, 1, [WEAK], "supply too weak"),
        (0x2, 0, [], "clock limited"),
        (0x4, 1, [THROTTLED], "throttled"),
        (0x8, 0, [], "soft temperature limit"),
        (0x10000, 0, ["seen since this machine was started: supply too weak"], "no"),
        (0x20000, 0, ["seen since this machine was started: clock limited"], "no"),
        (0x40000, 0, ["seen since this machine was started: throttled"], "no"),
        (0x80000, 0, ["seen since this machine was started: soft temperature limit"], "no"),
        (0x50005, 1, [WEAK], "supply too weak and throttled"),
    ],
)
def test_each_of_the_firmwares_bits(bits: int, level: int, said: list[str], status: str) -> None:
    machine = Machine()
    machine.look(Reading(50.0, bits), times=2)
    assert machine.level() == level
    assert [told[: len(want)] for told, want in zip(machine.notices, said, strict=True)] == said
    assert machine.governor.status["throttled"] == status
    machine.look(Reading(50.0, bits & ~0xF), times=30)
    assert machine.level() == 0


@pytest.mark.parametrize(("bit", "level"), [(1, 1), (2, 0), (4, 1), (8, 0)])
def test_what_came_and_went_between_two_looks(bit: int, level: int) -> None:
    machine = Machine()
    machine.look(COOL)
    machine.look(Reading(50.0, bit << 16))
    assert machine.level() == level
    machine.look(Reading(50.0, bit << 16), times=30)  # it stays set, and says nothing new
    assert machine.level() == 0
    assert len(machine.notices) == 2 * level


def test_a_limited_clock_is_trouble_where_it_is_warm() -> None:
    machine = Machine()
    machine.look(Reading(75.0, 2))
    assert machine.level() == 1
    assert machine.look(Reading(60.0, 2), times=100) == Gear(3)  # nothing is given back yet
    assert machine.look(Reading(60.0, 0), times=20) == Gear(4)


def test_a_low_clock_under_load() -> None:
    slow = Reading(75.0, clock=0.5)
    assert Machine().look(slow, times=9) == Gear(
        4
    )  # this board's profile doesn't say that it's heat
    assert Machine(by_clock=True).look(slow, times=9, busy=False) == Gear(4)
    assert Machine(by_clock=True).look(Reading(60.0, clock=0.5), times=9) == Gear(4)
    assert Machine(by_clock=True).look(Reading(75.0, clock=0.95), times=9) == Gear(4)
    machine = Machine(by_clock=True)
    assert machine.look(slow) == Gear(3)
    assert machine.look(slow, times=99) == Gear(1, 0.75)  # with pauses the clock says nothing


def test_an_alarm_of_the_supply() -> None:
    machine = Machine()
    assert machine.look(Reading(50.0, None, True)) == Gear(3)
    assert machine.governor.status["throttled"] == "supply too weak"
    assert machine.look(Reading(50.0, None, False), times=12) == Gear(4)


def test_a_recovery_that_was_too_early_makes_the_next_one_later() -> None:
    """The supply is too weak for four threads, and for no fewer."""
    machine, waits = Machine(), []
    for _ in range(round(2 * 3600 / INTERVAL_S)):
        weak = machine.governor.gear == Gear(4)
        machine.look(Reading(50.0, int(weak)))
    downs = [at for at, gear in machine.shifts if gear == Gear(3)]
    waits = [after - before for before, after in pairwise(downs)]
    assert waits == sorted(waits)
    assert CALM_S <= waits[0] < 3 * CALM_S
    assert waits[-1] >= LONGEST_CALM_S


def test_a_machine_that_tells_nothing_goes_on_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(governor, "INTERVAL_S", 0)
    machine = Machine()
    assert machine.look(Reading(), times=99) == Gear(4)
    assert machine.governor.status == {"threads": 4, "duty": 1.0}
    asyncio.run(machine.governor.watch(lambda: True, tmp_path))
    assert not machine.notices


def test_it_watches_a_board(pi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(governor, "INTERVAL_S", 0.001)
    heat = pi / "sys/class/thermal/thermal_zone0/temp"
    notices: asyncio.Queue[str] = asyncio.Queue()
    watched = Governor(2, lambda gear: None, lambda text, holds: notices.put_nowait(text))

    async def main() -> None:
        async with asyncio.timeout(20):
            watching = asyncio.create_task(watched.watch(lambda: True, pi))
            while "temperature_c" not in watched.status:
                await asyncio.sleep(0.001)
            assert watched.status["temperature_c"] == 48.312
            heat.write_text("86000\n")
            assert "has 86 °C: working with 1 thread;" in await notices.get()
            assert "1 thread, 75% of the time" in await notices.get()
            watching.cancel()

    asyncio.run(main())


def test_a_broken_profile_of_the_users_is_told(
    pi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(governor, "INTERVAL_S", 0)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "edgellm" / "boards").mkdir(parents=True)
    (tmp_path / "edgellm" / "boards" / "mine.toml").write_text("title = 1\n")
    machine = Machine()
    asyncio.run(machine.governor.watch(lambda: True, pi))
    assert "mine.toml" in machine.notices[0]


# --- answers meanwhile ----------------------------------------------------------------------------


class Heated(ToyExecutor):
    """Calls a function at each step, and keeps the number of threads that it had."""

    def __init__(self, step: Callable[[], object]) -> None:
        super().__init__(context=400)
        self.threads = 4
        self.used: list[int] = []
        self.during = lambda: (step(), self.used.append(self.threads))[1]


def answered(shift: Callable[[Scheduler], object]) -> tuple[str, list[int], float]:
    """An answer of 100 tokens, the threads of its steps, and its seconds."""
    executor = Heated(lambda: shift(scheduler))
    texts, seconds = [], 0.0

    async def main() -> None:
        nonlocal scheduler, seconds
        async with asyncio.timeout(30), Scheduler(executor, ToyTokenizer()) as scheduler:
            request = Request(list(b"is it warm?"), Sampling(temperature=1, seed=3), max_tokens=100)
            async for event in scheduler.submit(Session(""), request):
                match event:
                    case Text(text):
                        texts.append(text)
                    case Done():
                        seconds = event.seconds

    scheduler: Scheduler
    asyncio.run(main())
    return "".join(texts), executor.used, seconds


def test_an_answer_stays_the_same_in_whatever_gear() -> None:
    usual, threads, _ = answered(lambda scheduler: None)
    assert set(threads) == {4}
    order = iter([*gears(4), *reversed(gears(4))] * 99)
    shifting, threads, _ = answered(lambda scheduler: scheduler.shift(next(order)))
    assert shifting == usual
    assert set(threads) == {1, 2, 3, 4}


def test_with_pauses_it_works_less_of_the_time() -> None:
    import time

    def slow(scheduler: Scheduler) -> None:
        time.sleep(0.004)
        scheduler.shift(Gear(4, 0.25))

    text, _, seconds = answered(slow)
    assert len(text) == 100
    assert seconds > 100 * 0.004 * 4 * 0.9


def test_a_pause_keeps_nobody_from_stopping() -> None:
    import time

    def slow(scheduler: Scheduler) -> None:
        time.sleep(0.1)
        scheduler.shift(Gear(1, 0.001))

    executor = Heated(lambda: slow(scheduler))

    async def main() -> None:
        nonlocal scheduler
        async with asyncio.timeout(30), Scheduler(executor, ToyTokenizer()) as scheduler:
            answer = scheduler.submit(Session(""), Request(list(b"hello"), max_tokens=100))
            while not answer.text:
                await asyncio.sleep(0.01)
            began = time.monotonic()
            answer.stop()
        assert time.monotonic() - began < 20  # the pause would take 100 seconds

    scheduler: Scheduler
    asyncio.run(main())


@pytest.mark.usefixtures("cpu")
def test_a_service_on_a_hot_board(pi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way: from the board's tree to an answer that is slower, and the same."""
    monkeypatch.setattr(governor, "INTERVAL_S", 0.001)
    heat = pi / "sys/class/thermal/thermal_zone0/temp"
    asking = ["run", "-t", "2", "-c", "512", "-n", "60", "--temp", "1", "-s", "1", "-no-cnv"]
    options = cli.parser("run").parse_args([*asking, "-r", "no such text"])

    async def answer(celsius: int) -> tuple[str, list[str], dict[str, object]]:
        told: list[str] = []
        heat.write_text(f"{celsius}000\n")
        async with host.conversations(host.load(options), options, root=pi) as service:
            service.notices.listen(told.append)
            while "temperature_c" not in service.status():
                await asyncio.sleep(0.001)
            if celsius > LIMIT_C:
                while service.status()["duty"] != 0.25:
                    await asyncio.sleep(0.001)
            texts = [
                event.text async for event in service.ask("s", "turn") if isinstance(event, Text)
            ]
            return "".join(texts), told, service.status()

    cool, told, status = asyncio.run(answer(50))
    assert (told, status["throttled"], status["threads"]) == ([], "no", 2)
    hot, told, status = asyncio.run(answer(90))
    assert hot == cool
    assert [text.partition(":")[0] for text in told] == ["the processor has 90 °C"] * 2
    assert (status["temperature_c"], status["threads"], status["duty"]) == (90.0, 1, 0.25)
