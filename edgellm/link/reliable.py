"""One connection's messages, in order and once each, over a line that loses, flips and invents
bytes: go-back-N with cumulative acknowledgements, a window, credit, and frames as long as the
line's quality allows. No I/O and no clock in here; times are seconds of a clock that never jumps.

The body of a frame:

    type u8, seq u8, ack u8, credit u8, payload

    type    of the message; bit 0x80 (MORE): its payload goes on in the next numbered frame
    seq     of a numbered frame: counts 0, 1, ... 255, 0, ... in each direction from the handshake
            on; 0 in others
    ack     the seq that its sender expects next: all before it have arrived
    credit  how many frames from `ack` on its sender can take now, up to 8

Not numbered are Ack, Ping, Pong and the handshake: Hello, Challenge, Welcome, and Failed with the
code "hello" or "auth". The receiver's rules:

1. A numbered frame with the expected seq is taken, and acknowledged by the next frame that goes
   out, else by an Ack: best at once, at the latest after ACK_DELAY.
2. A numbered frame with one of the 128 seqs before has come twice: it is dropped, and acknowledged
   once more.
3. A numbered frame with any other seq is dropped. It, and anything between two zero bytes that is
   no sound frame, is answered by an Ack at once: it tells the sender that a frame is missing.
4. ack and credit count in every frame; in the handshake only credit does, for the time after it.
   An ack of what was never sent is ignored. A Ping is answered by a Pong at once.

The sender's rules:

5. At most `credit`, and at most 8, frames are under way. A frame stays as it is until it's
   acknowledged.
6. An Ack that acknowledges nothing new means: go back to the oldest frame under way, and send it
   and all after it again; but not if the Ack comes too soon to be about the latest sending of that
   frame. After MAX_IN_VAIN times it goes alone, and once a round trip.
7. If nothing is acknowledged for the time that the answer to the last frame should have taken, and
   FIRST_PAUSE, the oldest frame goes out alone, and the time doubles, up to LONGEST_PAUSE. Without
   credit a Ping goes out instead. Any sound frame that comes in such a pause ends it; after a
   complaint it is no longer than the answer should have taken.
"""

from __future__ import annotations

from math import inf

from edgellm.errors import LinkError, PeerError
from edgellm.link import frames
from edgellm.link.fields import MIN_MTU
from edgellm.link.joiner import Joiner
from edgellm.link.messages import (
    UNNUMBERED,
    Ack,
    Challenge,
    Chunk,
    Failed,
    Hello,
    Message,
    Note,
    Ping,
    Pong,
    Welcome,
    cut,
    is_unnumbered,
    pack,
    unpack,
)
from edgellm.link.quality import OVERHEAD, Quality, RoundTrip
from edgellm.link.send_queue import MORE, Frame, SendQueue

HEADER = 4
MAX_WINDOW = 8
MAX_WAITING = 64 * 1024
"""Bytes that a peer who acknowledges nothing can make us hold."""

FIRST_PAUSE = 0.05
"""Seconds until a frame is sent again, beyond the time that an answer takes."""
LONGEST_PAUSE = 0.5
"""Seconds: one frame in so many costs a dead line nothing, and one that comes back little time."""
LEAD = 0.004
"""Seconds of bytes given to the line in advance: enough for a late timer, and little enough that
going back needn't wait for them."""

MAX_IN_VAIN = 3
"""Goings back to the same frame with all that follows it. Beyond that, or on a line whose rate
isn't known, they might come faster than the line carries them, and only fill its queues."""

STUCK = 20
"""Sendings of the same frame, while the peer is heard, after which it's too long for the line."""


class Reliable:
    """One end of a connection. It is closed at first: only the handshake's messages pass, until
    `reset` opens it.

    Nothing that a peer sends raises; what breaks the rules is counted and dropped. Call `output`
    after each call of `receive` and `send`, and by `deadline`.
    """

    def __init__(
        self,
        *,
        mtu: int = 244,
        room: int = 32768,
        window: int = MAX_WINDOW,
        baud: float | None = None,
    ) -> None:
        """`mtu` and `room` are what this end takes: bytes of a frame's body and of a message's
        payload. `window` is how many frames may be under way, either way. With `baud`, bits a
        second at 10 a byte, output is paced by it."""
        self.mtu, self.room = mtu, max(room, mtu - HEADER)
        self.frames_sent = 0
        self.frames_lost = 0
        """How often frames had to be sent again."""
        self.peer_errors = 0
        self.peer_error: PeerError | None = None
        """The latest."""
        self.strangers = 0
        """Frames dropped because the connection is closed."""
        self.heard = -inf
        """When the latest sound frame came."""
        self.restarted = False
        """Whether the latest Hello came behind numbered frames: whoever says it has been reset."""
        self._decoder = frames.Decoder(mtu)
        self._window = min(window, MAX_WINDOW)
        self._seconds = 10 / baud if baud else 0.0  # a byte
        self._quality = Quality()
        self._now = -inf
        self._free = -inf  # when the line will have carried all that was given to it
        self._loose: dict[int, bytes] = {}  # unnumbered messages to send, one of a type
        self._offered = 0  # credit in the peer's latest message of the handshake
        self._longest = MIN_MTU  # body that the peer takes, as far as is known before the welcome
        self.close()

    @property
    def frame_errors(self) -> int:
        """How much noise came between sound frames."""
        return self._decoder.errors

    @property
    def payload(self) -> int:
        """Bytes of payload that frames have now."""
        return min(self._quality.payload, self.peer_mtu - HEADER)

    @property
    def waiting(self) -> int:
        """Bytes of messages that wait for sending or for being acknowledged."""
        return self._queue.nbytes + sum(len(frame.payload) for frame in self._flight)

    @property
    def stuck(self) -> bool:
        """The peer hears us, but a frame that was cut in better times doesn't get through. A new
        connection (Hello, or Failed "hello") cuts what's left anew."""
        if not self._flight:
            return False
        oldest = self._flight[0]
        return oldest.sendings >= STUCK and len(oldest.payload) > self.payload

    def close(self) -> None:
        """Drop all queues and take nothing but the handshake."""
        self.reset(MIN_MTU, 0)
        self._open = False
        self._loose.clear()

    def reset(self, peer_mtu: int, peer_room: int) -> None:
        """Open the connection anew: both directions count from 0, queues are empty. Messages of
        the handshake that were to be sent remain."""
        self._open = True
        self.peer_mtu, self.peer_room = peer_mtu, max(peer_room, peer_mtu - HEADER)
        # receiving
        self._expected = 0
        self._begun = False  # anything numbered has come
        self._owing = False  # an acknowledgement
        self._joiner = Joiner(self.room, self._blame)
        self._complaining = False  # the peer should hear at once what we expect
        # sending
        self._queue = SendQueue()
        self._flight: list[Frame] = []
        self._base = 0  # seq of the oldest frame under way
        self._next = 0  # which of them is to be sent next
        self._credit = self._offered
        self._pauses = 0  # since a frame was acknowledged at its first sending
        self._in_vain = 0  # going back on complaints, since a frame was acknowledged
        self._alone = False  # only the oldest frame may go out
        self._timer = inf
        self._round_trip = RoundTrip(self._seconds)

    # Receiving

    def receive(self, data: bytes, now: float) -> list[Message]:
        """The messages that `data` from the line completes, in order."""
        self._now = now
        found: list[Message] = []
        errors = self._decoder.errors
        for body in self._decoder.receive(data):
            try:
                message = self._take(body, now)
            except PeerError as error:
                self._blame(error)
            else:
                if message is not None:
                    found.append(message)
        self._complaining |= self._open and self._decoder.errors > errors
        return found

    def _take(self, body: bytes, now: float) -> Message | None:
        if len(body) < HEADER:
            raise PeerError(f"a frame's body has {len(body)} bytes, less than its header")
        head, seq, ack, credit = body[:HEADER]
        payload = body[HEADER:]
        self.heard = now
        message = self._unnumbered(head, payload)
        if isinstance(message, Hello):
            self.restarted, self._longest = self._begun, message.mtu
        if isinstance(message, Hello | Challenge | Welcome | Failed):
            self._offered = credit
            return message
        if not self._open:
            self.strangers += 1
            return None
        self._acknowledged(ack, credit, now, complaint=isinstance(message, Ack))
        if message is not None:
            if isinstance(message, Ping):
                self._loose[Pong.TYPE] = pack(Pong())[1]
            return None if isinstance(message, Ack) else message
        if seq == self._expected:
            self._expected = (self._expected + 1) & 0xFF
            self._begun = self._owing = True
            whole = self._joiner.join(head, payload)
            return None if whole is None else unpack(*whole)
        if (seq - self._expected) & 0x80:
            self._owing = True  # it came before; its acknowledgement may be lost
        else:
            self._complaining = True
        return None

    def _unnumbered(self, head: int, payload: bytes) -> Message | None:
        """The message, or None if the frame is numbered."""
        kind = head & ~MORE
        if kind in UNNUMBERED:
            if head & MORE:
                raise PeerError(f"message of type {kind:#04x} must fit into one frame")
            return unpack(kind, payload)
        if head != Failed.TYPE:
            return None
        try:
            message = unpack(kind, payload)
        except PeerError:
            return None  # to be acknowledged first, else it would come for ever
        return message if is_unnumbered(message) else None

    def _blame(self, error: PeerError) -> None:
        self.peer_errors += 1
        self.peer_error = error

    def _acknowledged(self, ack: int, credit: int, now: float, complaint: bool) -> None:
        taken = (ack - self._base) & 0xFF
        if taken > len(self._flight):
            self._blame(PeerError(f"frame {ack} is acknowledged, but was never sent"))
            return
        self._credit = credit
        if taken:
            for frame in self._flight[:taken]:
                self._quality.carried(len(frame.payload) + OVERHEAD)
            del self._flight[:taken]
            self._base = ack
            self._in_vain = 0
            self._next = max(0, self._next - taken)
            self._alone = False
            if frame.sendings == 1:
                self._round_trip.measure(max(0.0, now - frame.sent))
                self._pauses = 0
            # Which sending of a frame was answered can't be told (Karn's algorithm), but a line
            # that was dead and answers again deserves less patience.
            self._pauses = min(self._pauses, 2)
            self._start_timer()
        elif self._next and (complaint or self._alone):
            # How soon can this be about the latest sending of the oldest frame?
            quick = complaint and self._seconds and self._in_vain < MAX_IN_VAIN
            wait = self._round_trip.quickest / 2 if quick else self._round_trip.longest
            sent = self._flight[0].sent
            if complaint and self._alone:  # the line isn't dead, it only harms what it carries
                self._pauses = 0
                self._timer = min(self._timer, sent + self._round_trip.longest)
            if now >= sent + wait:
                if complaint:
                    self._quality.failed()
                    self._in_vain += 1
                    self._alone = not self._seconds or self._in_vain > MAX_IN_VAIN
                self._go_back()

    # Sending

    def send(self, message: Message) -> None:
        """Queue `message`; one that isn't numbered goes out next. Text that goes on where the last
        Chunk ended joins it. Text of a Failed or a Note is cut to the peer's room.

        Raises LinkError if the peer has no room for the message, or if MAX_WAITING is reached:
        then the peer is to be given up.
        """
        if isinstance(message, Chunk):
            text = message.text.encode()
            self._require(len(text))
            self._queue.put_text(message.offset, text)
            return
        if is_unnumbered(message):
            if isinstance(message, Failed):
                message = cut(message, self._longest - HEADER)
            kind, payload = pack(message)
            self._loose[kind] = payload
            return
        if isinstance(message, Failed | Note):
            message = cut(message, self.peer_room)
        kind, payload = pack(message)
        if len(payload) > self.peer_room:
            raise LinkError(
                f"{type(message).__name__} of {len(payload)} bytes is more than the peer has "
                f"room for: {self.peer_room}"
            )
        self._require(len(payload))
        self._queue.put(kind, payload)

    def _require(self, nbytes: int) -> None:
        if not self._open:
            raise RuntimeError("no connection is open")
        if self.waiting + nbytes > MAX_WAITING:
            raise LinkError(f"the peer has left {self.waiting} bytes unacknowledged")

    def output(self, now: float) -> bytes:
        """What to write now; b"" if there's nothing."""
        self._now = now
        if now >= self._timer:
            self._expire(now)
        written: list[bytes] = []
        if self._complaining:
            written.append(self._frame(Ack.TYPE, 0, b"", now))
        loose, self._loose = self._loose, {}
        written += [self._frame(kind, 0, payload, now) for kind, payload in loose.items()]
        while self._sendable() and now >= self._free - LEAD:
            written.append(self._numbered(now))
        if self._owing:
            written.append(self._frame(Ack.TYPE, 0, b"", now))
        if self._timer == inf:
            self._start_timer()
        return b"".join(written)

    def deadline(self) -> float | None:
        """When to call `output` again at the latest, if nothing comes before; None: never."""
        if self._loose or self._complaining or self._owing:
            return self._now
        when = self._timer
        if self._sendable():
            when = min(when, max(self._now, self._free - LEAD))
        return None if when == inf else when

    def _sendable(self) -> bool:
        allowed = min(1 if self._alone else self._window, self._credit)
        return self._next < allowed and (self._next < len(self._flight) or bool(self._queue))

    def _numbered(self, now: float) -> bytes:
        if self._next == len(self._flight):
            whole = self.peer_room <= self.peer_mtu - HEADER  # no fragments for this peer
            self._flight.append(Frame(*self._queue.take(self.payload, whole)))
        frame = self._flight[self._next]
        seq = (self._base + self._next) & 0xFF
        self._next += 1
        written = self._frame(frame.type, seq, frame.payload, now)
        frame.sendings += 1
        frame.sent = self._free
        self._start_timer()
        return written

    def _frame(self, head: int, seq: int, payload: bytes, now: float) -> bytes:
        self._owing = self._complaining = False
        written = frames.encode(bytes((head, seq, self._expected, self._window)) + payload)
        self.frames_sent += 1
        self._free = max(self._free, now) + len(written) * self._seconds
        return written

    def _go_back(self) -> None:
        self._next = 0
        self.frames_lost += 1

    def _start_timer(self) -> None:
        if not (self._flight or (self._queue and not self._credit)):
            self._timer = inf
            return
        latest = self._flight[self._next - 1].sent if self._next else self._now
        pause = FIRST_PAUSE + self._round_trip.longest
        doubled = min(pause * 2.0 ** min(self._pauses, 10), LONGEST_PAUSE)
        self._timer = max(latest, self._now) + max(pause, doubled)

    def _expire(self, now: float) -> None:
        self._pauses += 1
        if self._credit and self._flight:
            self._alone = True
            self._go_back()
        else:
            self._loose[Ping.TYPE] = pack(Ping())[1]
        self._start_timer()
