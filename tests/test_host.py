from __future__ import annotations

import os
import random
from dataclasses import replace

import pytest

from edgellm.link import frames
from edgellm.link.fields import MAX_MTU
from edgellm.link.host import MAC_BYTES, SERVER, Host, sign
from edgellm.link.messages import (
    Ask,
    Challenge,
    Failed,
    Hello,
    Message,
    Ping,
    Welcome,
    pack,
    unpack,
)

SOAK = "EDGELLM_SOAK" in os.environ
SECRET = b"correct horse battery staple"
TOKEN = bytes(range(8))
HELLO = Hello(7, b"", "greenhouse", 68, 0)


def frame(message: Message, seq: int = 0) -> bytes:
    kind, payload = pack(message)
    return frames.encode(bytes((kind, seq, 0, 8)) + payload)


class Talk:
    """A host, and what a peer without a link layer sees of it."""

    def __init__(self, secret: bytes | None = None) -> None:
        self.host = Host(secret)
        self.heard: list[Message] = []
        self._decoder = frames.Decoder(MAX_MTU)
        self._now = 0.0

    def say(self, *messages: Message, seq: int = 0) -> list[Message]:
        """Say them to the host, at once; what it answers."""
        self._now += 0.001
        said = b"".join(frame(message, seq) for message in messages)
        self.heard += self.host.receive(said, self._now)
        answers = []
        while data := self.host.link.output(self._now):
            answers += [unpack(body[0], body[4:]) for body in self._decoder.receive(data)]
        return answers

    def challenge(self, hello: Hello = HELLO) -> Challenge:
        [challenge] = self.say(replace(hello, mac=b""))
        assert isinstance(challenge, Challenge)
        return challenge

    def signed(self, secret: bytes = SECRET, hello: Hello = HELLO) -> Hello:
        """A hello that answers a challenge."""
        return replace(hello, mac=sign(secret, self.challenge(hello).challenge, hello))


def refused(answers: list[Message], hello: Hello = HELLO) -> bool:
    """Whether a wrong mac was answered as it should be."""
    codes = [one.code for one in answers if isinstance(one, Failed)]
    challenges = [one.nonce for one in answers if isinstance(one, Challenge)]
    return codes == ["auth"] and challenges == [hello.nonce] and len(answers) == 2


def test_without_a_secret_a_hello_is_enough() -> None:
    talk = Talk()
    assert talk.say(HELLO) == []
    assert talk.heard == [HELLO]
    assert not talk.host.open
    talk.host.welcome(HELLO, TOKEN, False)
    assert talk.host.open
    welcome, *rest = talk.say(Ping())
    assert welcome == Welcome(7, TOKEN, SERVER, talk.host.link.mtu, talk.host.link.room, False)
    assert len(rest) == 1  # the Pong


def test_with_a_secret_it_must_be_signed() -> None:
    talk = Talk(SECRET)
    hello = talk.signed()
    assert len(hello.mac) == MAC_BYTES
    assert talk.heard == []
    assert talk.say(hello) == []
    assert talk.heard == [hello]
    assert talk.host.refused == 0


def test_the_signature_is_what_the_specification_says() -> None:
    # HMAC-SHA-256 of 16 zero bytes, nonce 1, token and name, computed by openssl
    hello = Hello(1, TOKEN, "fan", 68, 0)
    assert sign(b"secret", bytes(16), hello).hex() == "1e822910d326ba15ca26de40496434d3"


def test_a_lost_challenge_is_said_again() -> None:
    talk = Talk(SECRET)
    first = talk.challenge()
    assert talk.challenge() == first
    other = talk.challenge(replace(HELLO, nonce=8))
    assert other.nonce == 8
    assert other.challenge != first.challenge
    talk.say(replace(HELLO, mac=sign(SECRET, first.challenge, HELLO)))
    assert talk.heard == []


def test_a_lost_welcome_is_said_again_and_nothing_changes() -> None:
    talk = Talk()
    talk.say(HELLO)
    talk.host.welcome(HELLO, TOKEN, True)
    [welcome] = talk.say(HELLO)
    assert isinstance(welcome, Welcome)
    ask = Ask(1, 0, "hi", {})
    assert talk.say(HELLO, ask) == [welcome]  # which acknowledges the question
    talk.say(ask, seq=0)  # the same frame again
    talk.say(Ask(2, 0, "ho", {}), seq=1)
    assert talk.heard == [HELLO, ask, Ask(2, 0, "ho", {})]


def test_a_device_that_was_reset_may_use_its_nonce_again() -> None:
    talk = Talk()
    for _ in range(3):
        talk.say(HELLO)
        assert talk.heard.pop() == HELLO
        talk.host.welcome(HELLO, TOKEN, True)
        for seq in range(2):
            ask = Ask(seq + 1, 0, "hi", {})
            talk.say(ask, seq=seq)
            assert talk.heard.pop() == ask


def test_a_device_that_was_reset_must_sign_its_nonce_again() -> None:
    talk = Talk(SECRET)
    hello = talk.signed()
    talk.say(hello)
    talk.host.welcome(hello, TOKEN, False)
    talk.say(Ask(1, 0, "hi", {}))
    [challenge] = talk.say(hello)  # overheard, and good for nothing
    assert isinstance(challenge, Challenge)
    assert talk.heard == [hello, Ask(1, 0, "hi", {})]
    again = talk.signed()
    talk.say(again)
    assert talk.heard[-1] == again


@pytest.mark.parametrize("secret", [None, SECRET])
def test_a_new_nonce_begins_anew(secret: bytes | None) -> None:
    talk = Talk(secret)
    for nonce in range(3):
        hello = replace(HELLO, nonce=nonce)
        hello = talk.signed(hello=hello) if secret else hello
        talk.say(hello)
        assert talk.heard.pop() == hello
        talk.host.welcome(hello, TOKEN, nonce > 0)
        talk.say(Ask(1, 0, "hi", {}), seq=0)
        assert talk.heard.pop() == Ask(1, 0, "hi", {})


def test_a_hello_that_may_not_come_in_leaves_the_open_connection_alone() -> None:
    talk = Talk(SECRET)
    hello = talk.signed()
    talk.say(hello)
    talk.host.welcome(hello, TOKEN, False)
    talk.say(Ping())
    talk.say(replace(hello, nonce=8))
    talk.say(Ask(1, 0, "hi", {}))
    assert talk.heard[-1] == Ask(1, 0, "hi", {})


def test_strangers_are_told_to_say_hello() -> None:
    talk = Talk()
    for message in (Ask(1, 0, "hi", {}), Ping()):
        [answer] = talk.say(message)
        assert isinstance(answer, Failed)
        assert answer.code == "hello"
    assert not [one for one in talk.heard if isinstance(one, Ask)]


def test_refusals_fit_the_devices_frames() -> None:
    talk = Talk()
    small = replace(HELLO, mtu=56)
    talk.say(small)
    talk.host.turn_away("far too many others are here already, come again later", 5000, 256)
    framed = talk.host.link.output(1.0)
    [body] = frames.Decoder(56).receive(framed)
    told = unpack(body[0], body[4:])
    assert isinstance(told, Failed)
    assert told.text
    assert (told.code, told.retry_ms, told.place) == ("hello", 5000, 256)


def test_who_is_turned_away_is_told_when_to_come_again() -> None:
    talk = Talk()
    talk.say(HELLO)
    talk.host.turn_away("busy", 500, 3)
    assert not talk.host.open
    assert talk.host.link.output(1.0) == frame(Failed(0, "hello", "busy", 500, 3))
    talk.say(HELLO)
    assert talk.heard == [HELLO, HELLO]


def test_wrong_macs_are_refused() -> None:
    count = 10_000
    talk = Talk(SECRET)
    noise = random.Random(1)
    challenge = talk.challenge()
    for _ in range(count):
        right = sign(SECRET, challenge.challenge, HELLO)
        wrong = bytearray(right)
        wrong[noise.randrange(MAC_BYTES)] ^= 1 << noise.randrange(8)
        guess = noise.choice([bytes(wrong), noise.randbytes(MAC_BYTES)])
        answers = talk.say(replace(HELLO, mac=guess))
        assert refused(answers)
        challenge = answers[-1] if isinstance(answers[-1], Challenge) else challenge
    assert talk.host.refused == count
    assert talk.heard == []
    assert not talk.host.open


@pytest.mark.parametrize(
    "changed", [{"nonce": 8}, {"token": TOKEN}, {"name": "greenhouse2"}, {"name": ""}]
)
def test_the_mac_covers_what_matters(changed: dict[str, object]) -> None:
    talk = Talk(SECRET)
    talk.say(replace(talk.signed(), **changed))
    assert talk.heard == []


def test_replayed_hellos_are_refused() -> None:
    for number in range(1000):
        hello = replace(HELLO, nonce=number)
        talk = Talk(SECRET)
        overheard = talk.signed(hello=hello)
        talk.say(overheard)
        assert talk.heard == [overheard]
        talk.host.turn_away("no room", 0, 0)
        talk.say(overheard)  # on the same connection: the challenge is used up
        assert talk.heard == [overheard]

        later = Talk(SECRET)
        [answer] = later.say(overheard)  # without a challenge
        assert isinstance(answer, Challenge)
        assert refused(later.say(overheard), hello)  # with that one
        assert refused(later.say(overheard), hello)  # and with the one after it
        assert later.heard == []
