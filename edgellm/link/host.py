"""The service's end of one connection in frame mode, up to and with the handshake. No I/O in here.

    device                                         host
    Hello(nonce, token or none, no mac)     ->
                                            <-     Challenge(nonce, 16 random bytes)
    Hello(nonce, token or none, mac)        ->
                                            <-     Welcome(nonce, token, resumed)

Without a secret the first Hello is answered by the Welcome. A mac is good for the latest challenge
alone, and a challenge for one mac, so that nobody gets in by repeating what he overheard; a wrong
one is answered by Failed "auth" and another challenge. A Hello with the nonce of the open
connection means that the Welcome was lost: it is sent again, and nothing changes; behind anything
numbered it comes from a device that was reset and counts its nonces from the same one again, and
is a new connection. Whoever isn't welcome yet and sends anything else is told Failed "hello".
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterator
from hashlib import sha256

from edgellm.link.fields import MAX_QUESTION
from edgellm.link.messages import Challenge, Failed, Hello, Message, Welcome
from edgellm.link.reliable import Reliable

MAC_BYTES = 16
CHALLENGE_BYTES = 16
SERVER = "edgellm"
ROOM = MAX_QUESTION + 64
"""Bytes of a device's message: the longest question, but not with a long schema as well."""


def sign(secret: bytes, challenge: bytes, hello: Hello) -> bytes:
    """The `mac` of a hello: it knows the secret."""
    said = challenge + hello.nonce.to_bytes(4, "little") + hello.token + hello.name.encode()
    return hmac.digest(secret, said, sha256)[:MAC_BYTES]


class Host:
    """Lets a device in, then carries its messages. After each call, send what `output` has."""

    def __init__(self, secret: bytes | None = None, baud: float | None = None) -> None:
        """With a `secret` only those who know it are let in. `baud`: see Reliable."""
        self.refused = 0
        """How many wrong macs have come."""
        self.link = Reliable(room=ROOM, baud=baud)
        self._secret = secret
        self._challenge: tuple[int, bytes] | None = None  # for the hello with that nonce
        self._welcome: Welcome | None = None

    @property
    def open(self) -> bool:
        """Whether somebody is welcome."""
        return self._welcome is not None

    def receive(self, data: bytes, now: float) -> Iterator[Message]:
        """What `data` brings, in order, to be taken to the end. A Hello among it is from somebody
        who may come in: answer it by `welcome` or `turn_away` before you take the next one."""
        strangers = self.link.strangers
        for message in self.link.receive(data, now):
            if not isinstance(message, Hello) or self._admit(message):
                yield message
        if self.link.strangers > strangers and not self.open:
            self.link.send(Failed(0, "hello", "say hello first"))

    def welcome(self, hello: Hello, token: bytes, resumed: bool) -> None:
        """Open the connection, to the session of that token."""
        link = self.link
        self._welcome = Welcome(hello.nonce, token, SERVER, link.mtu, link.room, resumed)
        link.reset(hello.mtu, hello.room)
        link.send(self._welcome)

    def turn_away(self, reason: str, retry_ms: int, place: int) -> None:
        """Nobody is welcome (any more); a hello may be said again after that time."""
        self._welcome = None
        self.link.close()
        self.link.send(Failed(0, "hello", reason, retry_ms, place))

    def _admit(self, hello: Hello) -> bool:
        """Whether this hello opens a connection; answers it if it doesn't."""
        welcome = self._welcome
        if welcome is not None and hello.nonce == welcome.nonce and not self.link.restarted:
            self.link.send(welcome)
            return False
        if self._secret is None:
            return True
        challenge = self._challenge
        if challenge is not None and challenge[0] == hello.nonce and not hello.mac:
            self.link.send(Challenge(*challenge))  # it was lost, and nobody has used it
            return False
        self._challenge = None
        if hello.mac and challenge is not None and challenge[0] == hello.nonce:
            if hmac.compare_digest(hello.mac, sign(self._secret, challenge[1], hello)):
                return True
            self.refused += 1
            self.link.send(Failed(0, "auth", "wrong secret"))
        self._challenge = hello.nonce, os.urandom(CHALLENGE_BYTES)
        self.link.send(Challenge(*self._challenge))
        return False
