"""The sessions that devices enter with a token, leave, and come back to."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from edgellm.channel import Entry
from edgellm.errors import BusyError
from edgellm.history.records import History, Record

if TYPE_CHECKING:
    from edgellm.history.session_store import SessionStore

TOKEN_BYTES = 8
MOST = 256
"""Sessions in memory. So many devices may be there at once, or have an answer under way."""
KEPT_S = 600.0
"""Seconds that a session which was left stays in memory."""
RETRY_MS = 5000


@dataclass(eq=False)
class _Seat:
    """A session in memory."""

    history: History
    lost: Callable[[], None] | None
    """The line that its device is on; None: it has left."""
    left: float
    """When its device was last seen to leave."""


def name_of(token: bytes) -> str:
    """What a session is called whose token this is; it doesn't give the token away."""
    return sha256(b"edgellm session " + token).hexdigest()[:32]


class SessionRegistry:
    """Keeps histories, in a store where there is one, else in memory only."""

    def __init__(
        self,
        store: SessionStore | None,
        is_idle: Callable[[str], bool],
        drop: Callable[[str], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`is_idle` tells of a session whether no answer is under way; `drop` is called with one
        that leaves the memory."""
        self._store = store
        self._is_idle = is_idle
        self._drop = drop
        self._monotonic = monotonic
        self._seats: dict[str, _Seat] = {}

    @property
    def now(self) -> float:
        """Seconds by the clock that sessions' ages are counted by."""
        return self._store.now if self._store is not None else self._monotonic()

    def __contains__(self, name: str) -> bool:
        return name in self._seats

    def history(self, name: str) -> History:
        """Of a session in memory."""
        return self._seats[name].history

    def enter(self, token: bytes | None, lost: Callable[[], None]) -> Entry:
        """See `Service.enter`."""
        if token is not None:
            name = name_of(token)
            if seat := self._seats.get(name):
                before, seat.lost = seat.lost, None
                if before is not None:
                    before()
                seat.lost = lost
                return Entry(name, token, True)
            if self._store is not None and self._store.has(name):
                self._make_room()
                history = self._store.load(name)
                if history is not None:
                    self._seats[name] = _Seat(history, lost, 0.0)
                    return Entry(name, token, True)
        self._make_room()
        token = secrets.token_bytes(TOKEN_BYTES)
        name = name_of(token)
        history = History(name) if self._store is None else self._store.begin(name)
        self._seats[name] = _Seat(history, lost, 0.0)
        return Entry(name, token, False)

    def leave(self, name: str) -> None:
        """See `Service.leave`."""
        if seat := self._seats.get(name):
            seat.lost, seat.left = None, self._monotonic()
        self._tidy()

    def close(self, name: str) -> None:
        """A session needn't be in memory any more."""
        if self._seats.pop(name, None) is not None:
            self._drop(name)
            if self._store is not None:
                self._store.release(name)

    def note(self, name: str, *records: Record) -> None:
        """Go on with a session in memory; on disk that is later."""
        if self._store is not None:
            self._store.note(name, *records)
        else:
            for record in records:
                self.history(name).add(record)

    def save(self, name: str, *records: Record) -> asyncio.Future[bool]:
        """The same; the result is False where it should be on disk by now and isn't."""
        if self._store is not None:
            return self._store.save(name, *records)
        self.note(name, *records)
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        future.set_result(True)
        return future

    def _leavers(self) -> list[str]:
        """Sessions that could leave the memory, the one that was left first before the others."""
        gone = [name for name, seat in self._seats.items() if seat.lost is None]
        return sorted(filter(self._is_idle, gone), key=lambda name: self._seats[name].left)

    def _tidy(self) -> None:
        late = self._monotonic() - KEPT_S
        for name in self._leavers():
            if self._seats[name].left < late:
                self.close(name)

    def _make_room(self) -> None:
        """For one more. Raises BusyError where nobody can go."""
        self._tidy()
        if len(self._seats) >= MOST:
            leavers = self._leavers()
            if not leavers:
                raise BusyError(0, RETRY_MS)
            self.close(leavers[0])
