"""One peer: serves its lines, and from its first zero byte on its frames."""

from __future__ import annotations

from typing import Protocol

from edgellm.channel import Priority, Service
from edgellm.framed import Framed
from edgellm.talk import Talk


class Wire(Protocol):
    """A byte stream both ways. Its methods raise LinkError once the line is gone."""

    async def read(self) -> bytes:
        """Some bytes; none once the peer has ended its side. Cancelling loses nothing."""

    async def write(self, data: bytes) -> None:
        """Send after all earlier calls' data, and return when there's room for more.

        Raises LinkError if the peer takes too little for too long.
        """


class Connection:
    """Serves one peer's questions and commands, one answer at a time, in lines (`edgellm.talk`) or
    in frames (`edgellm.framed`), which a zero byte begins for good."""

    def __init__(
        self,
        wire: Wire,
        service: Service,
        session: str,
        idle: float = 0,
        priority: Priority = Priority.PERSON,
        *,
        secret: bytes | None = None,
        handshake: float = 0,
        baud: float | None = None,
        adapter: str | None = None,
    ) -> None:
        """`idle` is how many seconds may pass between lines, or frames, while no answer runs;
        `handshake`, how many until the peer has said the secret or, in frames, its hello; 0: any
        number. `baud` paces frames, see Reliable; `adapter`: see Framed."""
        self.refused = 0
        """How many wrong tokens the peer has said, for whoever keeps count of its address."""
        self._wire = wire
        self._service = service
        self._session = session
        self._idle = idle
        self._priority = priority
        self._secret = secret
        self._handshake = handshake
        self._baud = baud
        self._adapter = adapter

    async def run(self) -> None:
        """Serve until the peer ends its side (its answer is still delivered), goes idle, or has
        said too many wrong tokens.

        Raises LinkError if the line is lost. However it ends, the session of the lines is closed,
        and the one of the frames left.
        """
        if not (frames := await self._talk()):
            return
        framed = Framed(
            self._wire,
            self._service,
            self._session,
            secret=self._secret,
            handshake=self._handshake,
            idle=self._idle,
            priority=self._priority,
            baud=self._baud,
            adapter=self._adapter,
        )
        try:
            running = framed.run(frames)
            del frames  # they would take room as long as it runs
            await running
        finally:
            self.refused += framed.refused

    async def _talk(self) -> bytes:
        talk = Talk(
            self._wire,
            self._service,
            self._session,
            self._idle,
            self._priority,
            self._secret,
            self._handshake,
            self._adapter,
        )
        try:
            return await talk.run()
        finally:
            self.refused += talk.refused
