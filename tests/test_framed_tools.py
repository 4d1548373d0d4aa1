"""Tools that a device declares, and calls of them."""

from __future__ import annotations

import pytest
from framed_peer import FAN, connect
from scripted import ScriptedService
from virtual_time import run

from edgellm.channel import Call
from edgellm.link import messages
from edgellm.link.messages import (
    Ask,
    Chunk,
    Failed,
    Finished,
    Result,
    StatusQuery,
    StatusReport,
    Tools,
)


def test_calls_and_results() -> None:
    call = Call(1, "fan", {"speed": 3}, 30.0)

    async def main() -> None:
        service = ScriptedService(lambda _: ["so ", call, "done"])
        async with connect(service) as peer:
            peer.say(Tools([FAN]), Ask(1, 0, "hi", {}))
            called = await peer.next(messages.Call)
            assert called == messages.Call(1, "fan", {"speed": 3}, 30_000)
            peer.say(Result(1, "ok", [1, "two", None]))
            await peer.next(Finished)
            assert service.answers[0].results == {1: (True, [1, "two", None])}
            assert [tool.name for tool in service.tools["session 1"]] == ["fan"]

    run(main())


def test_a_device_is_heard_in_order_and_others_while_its_tools_are_compiled() -> None:
    async def main() -> None:
        service = ScriptedService(lambda _: ["done"])
        async with connect(service) as peer, connect(service) as other:
            service.prepared.clear()
            peer.say(Tools([FAN]), Ask(1, 0, "hi", {}))
            await service.preparing.wait()
            other.say(StatusQuery())
            await other.next(StatusReport)
            assert not service.tools
            assert not service.asked
            service.prepared.set()
            await peer.next(Finished)
            assert list(service.tools) == ["session 1"]

    run(main())


def test_a_call_is_told_again_on_the_next_line() -> None:
    async def main() -> None:
        service = ScriptedService(lambda _: ["so ", Call(1, "fan", {}, 30.0), "done"])
        async with connect(service) as peer:
            peer.say(Ask(1, 0, "hi", {}))
            first = await peer.next(messages.Call)
        async with connect(service, hello=False) as peer2:
            assert peer.welcome is not None
            assert (await peer2.hello(peer.welcome.token)).resumed
            peer2.say(Ask(1, 3, None, {}))
            assert await peer2.next(messages.Call) == first
            peer2.say(Result(1, "error", "jammed"))
            assert await peer2.next(Chunk) == Chunk(3, "done")
            assert service.answers[0].results == {1: (False, "jammed")}

    run(main())


def test_a_call_that_the_device_has_no_room_for_is_answered_for_it() -> None:
    async def main() -> None:
        service = ScriptedService(lambda _: [Call(1, "fan", {"speed": "x" * 100}, 1.0), "done"])
        async with connect(service, mtu=68, room=0) as peer:
            peer.say(Ask(1, 0, "hi", {}))
            await peer.next(Finished)
            ok, value = service.answers[0].results[1]
            assert not ok
            assert "room for 64 bytes" in str(value)

    run(main())


def test_a_call_that_no_message_can_carry_is_answered_for_the_device() -> None:
    async def main() -> None:
        service = ScriptedService(lambda _: [Call(1, "fan", {"speed": 10**30}, 1.0), "done"])
        async with connect(service) as peer:
            peer.say(Ask(1, 0, "hi", {}))
            await peer.next(Finished)
            ok, value = service.answers[0].results[1]
            assert not ok
            assert "64 bits" in str(value)

    run(main())


@pytest.mark.parametrize("tools", [[1], [["fan"]], [FAN, ["no name!", "", {}, 0]]])
def test_tools_are_refused_as_a_whole(tools: list[object]) -> None:
    async def main() -> None:
        service = ScriptedService()
        async with connect(service) as peer:
            peer.say(Tools(tools))
            failed = await peer.next(Failed)
            assert (failed.id, failed.code) == (0, "tools")
            assert service.tools == {}

    run(main())
