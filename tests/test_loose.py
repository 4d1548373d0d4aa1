from __future__ import annotations

from edgellm.link.frames import Decoder
from edgellm.link.loose import frame, say_hello
from edgellm.link.messages import Failed, Ping, unpack


def test_a_frame_holds_its_message() -> None:
    (body,) = Decoder(64).receive(frame(Ping()))
    assert body[:4] == bytes((Ping.TYPE, 0, 0, 0))
    assert unpack(Ping.TYPE, body[4:]) == Ping()


def test_hello_is_asked_for_thrice() -> None:
    bodies = Decoder(64).receive(say_hello())
    assert [unpack(body[0], body[4:]) for body in bodies] == [Failed(0, "hello", "say hello")] * 3
