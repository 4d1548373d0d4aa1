"""edgellm's client for MicroPython and CircuitPython, in one file that needs no other.

    import edgellm
    from machine import UART

    link = edgellm.Link(UART(0, 115200, rxbuf=1024), "greenhouse")
    link.tool(fan, "Switches the fan.", {"on": {"type": "boolean"}})
    print(link.ask("It is 31 degrees in here. What do you do?"))

An answer arrives whole and once, however often the line fails or the service restarts meanwhile:
`ask` goes on where it stopped. Functions given to `tool` are called by the model within the ranges
that their schemas allow; what they return, or the text of what they raise, goes back to it.

The line is any object with `write(bytes)` and a `read(n)` that returns what is there at once, at
most n bytes, and b"" or None where there is nothing: in MicroPython a UART, in CircuitPython
`busio.UART(..., timeout=0)` or `usb_cdc.data` with its `timeout` set to 0.
"""

import struct
from binascii import crc32

try:
    from time import sleep_ms, ticks_add, ticks_diff, ticks_ms
except ImportError:  # CircuitPython, CPython
    import time

    def ticks_ms():
        return time.monotonic_ns() // 1000000

    def ticks_add(earlier, ms):
        return earlier + ms

    def ticks_diff(later, earlier):
        return later - earlier

    def sleep_ms(ms):
        time.sleep(ms / 1000)


HELLO, ASK, ACK, PING, STOP, TOOLS, RESULT, TAKEN, NEW = 1, 2, 3, 4, 5, 7, 8, 9, 10
CHALLENGE, WELCOME, TEXT, DONE, ERR, PONG = 15, 16, 17, 18, 19, 20
ACCEPT, CALL, NOTE = 23, 24, 26
MORE = 128
RESULT_BYTES = 4096  # of a tool's result, by the wire's rules
RESULTS = 4  # kept, for calls that are repeated


class LinkError(Exception):
    """The service refused or ended a question; `code` is one word, `retry_ms` when to try again."""

    def __init__(self, code, text, retry_ms=0, place=0):
        super().__init__(f"{code}: {text}")
        self.code = code
        self.retry_ms = retry_ms
        self.place = place


class Link:
    """A line to the service. One question at a time; `poll` has to be called often meanwhile."""

    def __init__(self, line, name="", token=b"", number=0, mtu=244, room=2048, payload=64):
        """`token` and `number`, kept from an earlier Link, continue its conversation.

        mtu: the largest frame taken, which costs as much memory. room: the same for a message of
        several frames (a call's arguments). payload: the message bytes in a frame that is sent.
        """
        self.token = token
        self.number = number  # of the last question
        self.reason = None  # why the last answer ended: stop, length, cancel, deadline
        self.note = None  # the last remark of the service
        self._line = line
        self._name = name
        self._mtu = mtu
        self._room = room
        self._largest = payload
        self._tools = {}  # by name, as they are declared
        self._functions = {}
        self._results = []  # (number of the call, packed RESULT), the oldest first
        self._question = None  # [text, options], while it's under way
        self._asked = False  # the service may have heard of the question
        self._stopping = False
        self._new = False
        self._error = None
        self._raw = b""  # a frame on its way in
        self._nonce = crc32(token, _seed())
        self._hello()

    def tool(self, function, description, parameters=None, danger=0):
        """Declare a function that the model may call by its name, with arguments by theirs.

        parameters: name to JSON Schema, or a JSON Schema of an object. danger: 0 harmless,
        1 changes something, 2 could do harm.
        """
        schema = parameters or {}
        if not isinstance(schema.get("properties"), dict):
            schema = {"type": "object", "properties": schema, "required": list(schema)}
        name = function.__name__
        self._functions[name] = function
        self._tools[name] = [name, description, schema, danger]
        if self._linked:
            self._declare()

    def ask(self, text, on_text=None, **options):
        """Put a question; returns the answer, or gives it to `on_text` piece by piece.

        options: max_tokens, deadline (seconds), schema (a JSON Schema of the answer). Raises
        LinkError if the service refuses.
        """
        pieces = []
        self.start(text, on_text or pieces.append, **options)
        while self.poll():
            sleep_ms(1)
        return "".join(pieces)

    def start(self, text, on_text, **options):
        """Put a question, and leave it to `poll` to get the answer."""
        if self._question:
            raise LinkError("busy", "one question at a time")
        self.number += 1
        self._question = [text, options]
        self._on_text = on_text
        self._got = self._crc = 0
        self._asked = self._stopping = False
        self.reason = None
        if self._linked:
            self._put()

    def stop(self):
        """End the answer as far as it has come."""
        if self._question:
            self._stopping = True
            if self._linked:
                self._send(STOP, [self.number])

    def new(self):
        """Forget the conversation when the next question is put."""
        self._new = True

    def poll(self):
        """Do what there is to do now; returns whether an answer is under way.

        Raises LinkError if the service refuses.
        """
        for _ in range(16):
            data = self._line.read(256)
            if not data:
                break
            pieces = data.split(b"\0")
            for piece in pieces[:-1]:
                raw = self._raw + piece
                self._raw = b""
                if raw:
                    self._frame(_unstuffed(raw) if len(raw) <= self._mtu + 10 else None)
            self._raw = (self._raw + pieces[-1])[: self._mtu + 11]
        self._output(ticks_ms())
        error, self._error = self._error, None
        if error:
            raise error
        return self._question is not None

    # Frames: in order, each until it's acknowledged; one at a time on the way out.

    def _hello(self):
        """Begin a connection anew: both ends forget what was on its way."""
        self._nonce = (self._nonce * 1664525 + 1013904223) & 0xFFFFFFFF
        self._linked = False
        self._queue = []  # [type, payload]
        self._seq = self._expected = 0
        self._sent = False  # the first of the queue, and not yet acknowledged
        self._credit = 1
        self._parts = None  # of a message
        self._ack = False  # is due
        self._pings = 0
        self._hellos = 0
        self._timer = self._heard = ticks_ms()

    def _output(self, now):
        due = ticks_diff(now, self._timer) >= 0
        if not self._linked:
            if due:
                hello = [1, self._nonce, self.token, self._name, self._mtu, self._room, b""]
                self._write(HELLO, 0, _packed(hello))
                self._hellos += 1
                self._timer = ticks_add(now, 100 if self._hellos < 10 else 1000)
            return
        if self._queue and (due or (self._credit and not self._sent)):
            kind, payload = self._queue[0]
            if self._credit:
                self._write(kind, self._seq, payload)
                self._sent = True
            else:
                self._write(PING, 0, b"")
            self._again(now)
        elif self._ack:
            self._write(ACK, 0, b"")
        silence = ticks_diff(now, self._heard)
        if (self._question or self._queue) and silence > (500 if self._pings else 1000):
            self._heard = now
            self._pings += 1
            if self._pings > 3:
                self._hello()
            else:
                self._write(PING, 0, b"")

    def _again(self, now):
        self._sent_at = now
        self._timer = ticks_add(now, self._pause)
        self._pause = min(2 * self._pause, 2000)

    def _write(self, kind, seq, payload):
        head = bytes((kind, seq, self._expected, 4))
        self._ack = False
        self._line.write(_stuffed(head + payload))

    def _send(self, kind, message):
        payload = _packed(message)
        while len(payload) > self._payload:
            self._queue.append((kind | MORE, payload[: self._payload]))
            payload = payload[self._payload :]
        self._queue.append((kind, payload))

    def _frame(self, body):
        if body is None or len(body) < 8 or crc32(body[:-4]) != struct.unpack("<I", body[-4:])[0]:
            self._ack = True  # what was sent twice for nothing is found by its number
            return
        kind, seq, ack, self._credit = body[:4]
        self._heard = ticks_ms()
        self._pings = 0
        payload = bytes(body[4:-4])
        if kind in (WELCOME, CHALLENGE):
            self._handshake(kind, _unpacked(payload))
            return
        if not self._linked:
            self._hellos = 0  # somebody is there
            if kind == ERR:
                self._turned_away(_unpacked(payload) or [])
            return
        if self._sent and ack == (self._seq + 1) & 255:
            self._seq = ack
            self._sent = False
            self._pause = 200
            self._queue.pop(0)
        elif kind == ACK and self._sent and ticks_diff(self._heard, self._sent_at) > 50:
            self._timer = self._heard  # it was lost
        if kind == PING:
            self._write(PONG, 0, b"")
        elif kind == ERR and (_unpacked(payload) or [])[1:2] == ["hello"]:
            self._hello()
        elif kind not in (ACK, PONG):
            self._numbered(kind, seq, payload)

    def _numbered(self, kind, seq, payload):
        self._ack = True
        if seq != self._expected:
            return
        self._expected = (seq + 1) & 255
        if self._parts is not None:
            payload = self._parts + payload
        if kind & MORE:
            self._parts = payload[: self._room + 1]
            return
        self._parts = None
        message = _unpacked(payload or b"\x90") if len(payload) <= self._room else None
        if message is not None:
            self._message(kind, message)

    def _turned_away(self, refusal):
        retry_ms = refusal[3] if len(refusal) == 5 else 0
        if refusal[:2] == [0, "hello"] and isinstance(retry_ms, int) and retry_ms > 0:
            refusal[1] = "busy"
            self._timer = ticks_add(self._heard, min(retry_ms, 600000))
        if refusal[:1] == [0] and refusal[1:2] != ["hello"]:
            self._message(ERR, refusal)

    def _handshake(self, kind, message):
        if self._linked or not message or message[0] not in (1, self._nonce):
            return
        if kind == CHALLENGE:
            self._fail(LinkError("auth", "the service wants a secret"))
        elif message[:2] == [1, self._nonce] and len(message) == 7:
            _, _, token, _, mtu, _, resumed = message
            if not (isinstance(token, bytes) and isinstance(mtu, int) and mtu >= 36):
                return
            gone = self.token and not resumed
            self.token = token
            self._payload = min(self._largest, mtu - 4)
            self._linked = True
            self._pause = 200
            if self._tools:
                self._declare()
            if gone:
                self._results = []
            if gone and self._question:
                self._unknown("the service has forgotten this conversation")
            elif self._question:
                self._put()

    # Messages.

    def _declare(self):
        self._send(TOOLS, list(self._tools.values()))

    def _put(self):
        """Ask; or go on with an answer if the service knows the question."""
        text, options = self._question
        self._resuming = self._asked
        if self._asked:
            text, options = None, {}
        elif self._new:
            self._send(NEW, [])
        self._asked = True
        self._accepted = False
        self._send(ASK, [self.number, self._got, text, options])
        if self._stopping:
            self._send(STOP, [self.number])

    def _unknown(self, text):
        """The question was lost; where part of its answer is here, another wouldn't fit to it."""
        if self._got:
            self._fail(LinkError("unknown", text))
        else:
            self._asked = False
            self._put()

    def _fail(self, error):
        self._error = error
        self._question = None

    def _message(self, kind, message):
        piece = ""
        try:
            if kind == CALL:
                self._call(*message)
            elif kind == NOTE:
                self.note = message[0]
            elif kind == ERR:
                self._refused(*message)
            elif kind == ACCEPT and message[0] == self.number:
                self._accepted = True
                self._new = False
            elif kind == TEXT and self._question and self._accepted:
                piece = self._text(*message)
            elif kind == DONE and self._question and message[0] == self.number:
                self._done(*message)
        except (AttributeError, IndexError, TypeError, ValueError):
            self._fail(LinkError("bad", f"message {kind} from the service is wrong"))
        if piece:
            self._on_text(piece)

    def _text(self, offset, text):
        """What is new in a piece of the answer."""
        if offset > self._got:
            raise ValueError
        data = text.encode()[self._got - offset :]
        self._got += len(data)
        self._crc = crc32(data, self._crc)
        return str(data, "utf-8")

    def _done(self, number, total, reason, tokens, ms, crc):
        self._send(TAKEN, [number])
        self._question = None
        self.reason = reason
        if (total, crc) != (self._got, self._crc):
            self._fail(LinkError("damaged", "the answer isn't the one that was begun"))

    def _refused(self, number, code, text, retry_ms, place):
        if not isinstance(code, str) or not isinstance(retry_ms, int):
            raise ValueError
        if number == self.number and self._question:
            if code == "unknown" and self._resuming:
                self._unknown(text)
            else:
                self._fail(LinkError(code, text, retry_ms, place))
        elif number == 0 and code == "bad":
            self.note = text
        elif number == 0:
            self._fail(LinkError(code, text, retry_ms, place))

    def _call(self, number, name, arguments, deadline_ms):
        for known, result in self._results:
            if known == number:
                self._send(RESULT, result)
                return
        result = [number, "ok", None]
        try:
            if name not in self._functions:
                raise ValueError("there is no tool " + name)
            result[2] = self._functions[name](**arguments)
            if len(_packed(result)) > RESULT_BYTES:
                raise ValueError("the result is too long")
        except Exception as error:  # whatever it is, the model is told
            result[1:] = ["error", f"{type(error).__name__}: {error}"]
        self._results.append((number, result))
        self._results = self._results[-RESULTS:]
        self._send(RESULT, result)


def _seed():
    try:
        from os import urandom

        return int.from_bytes(urandom(4), "little")
    except (ImportError, NotImplementedError):
        return ticks_ms()


def _stuffed(body):
    """A frame: COBS of the body and its CRC, between zeros."""
    out = bytearray(1)
    for run in (body + struct.pack("<I", crc32(body))).split(b"\0"):
        while len(run) > 253:
            out += b"\xff" + run[:254]
            run = run[254:]
        out.append(len(run) + 1)
        out += run
    out.append(0)
    return out


def _unstuffed(raw):
    out = bytearray()
    at = 0
    while at < len(raw):
        end = at + raw[at]
        if end > len(raw):
            return None
        out += raw[at + 1 : end]
        if raw[at] < 255 and end < len(raw):
            out.append(0)
        at = end
    return out


# MessagePack: what the wire uses of it.

_NUMBERS = {202: ">f", 203: ">d"}
_NUMBERS.update({204 + n: ">" + c for n, c in enumerate("BHIQbhiq")})
_LENGTHS = {196: 0, 197: 1, 198: 2, 217: 0, 218: 1, 219: 2, 220: 1, 221: 2, 222: 1, 223: 2}


def _packed(value):
    out = bytearray()
    _pack(value, out)
    return bytes(out)


def _pack(value, out):
    if value is None:
        out.append(192)
    elif isinstance(value, bool):
        out.append(195 if value else 194)
    elif isinstance(value, int):
        if -32 <= value < 128:
            out.append(value & 255)
        elif value < 0:
            out += struct.pack(">Bq", 211, value)
        elif value < 1 << 32:
            out += struct.pack(">BI", 206, value)
        else:
            out += struct.pack(">BQ", 207, value)
    elif isinstance(value, float):
        out += struct.pack(">Bd", 203, value)
    elif isinstance(value, str):
        data = value.encode()
        _head(out, len(data), 160, 32, 218)
        out += data
    elif isinstance(value, (bytes, bytearray)):
        out += struct.pack(">BH", 197, len(value))
        out += value
    elif isinstance(value, dict):
        _head(out, len(value), 128, 16, 222)
        for name in value:
            _pack(name, out)
            _pack(value[name], out)
    elif isinstance(value, (list, tuple)):
        _head(out, len(value), 144, 16, 220)
        for item in value:
            _pack(item, out)
    else:
        raise TypeError(f"a {type(value).__name__} can't be sent")


def _head(out, length, short, limit, long):
    if length < limit:
        out.append(short | length)
    else:
        out += struct.pack(">BH", long, length)


def _unpacked(data):
    """The one value in `data`, a list; None if it's anything else."""
    try:
        value, at = _unpack(data, 0, 16)
    except Exception:  # Pythons differ in what they raise for damaged data
        return None
    return value if at == len(data) and isinstance(value, list) else None


def _unpack(data, at, depth):
    kind = data[at]
    at += 1
    if kind < 128:
        return kind, at
    if kind >= 224:
        return kind - 256, at
    if 192 <= kind <= 195:
        return (None, None, False, True)[kind - 192], at
    if kind in _NUMBERS:
        return struct.unpack_from(_NUMBERS[kind], data, at)[0], at + struct.calcsize(_NUMBERS[kind])
    if kind < 192:
        length = kind & (31 if kind >= 160 else 15)
    else:
        size = 1 << _LENGTHS[kind]
        length = int.from_bytes(data[at : at + size], "big")
        at += size
    if length > len(data) - at or not depth:
        raise ValueError
    if 160 <= kind < 192 or 217 <= kind <= 219:
        return str(data[at : at + length], "utf-8"), at + length
    if 196 <= kind <= 198:
        return data[at : at + length], at + length
    if kind < 144 or kind >= 222:
        mapping = {}
        for _ in range(length):
            name, at = _unpack(data, at, depth - 1)
            mapping[name], at = _unpack(data, at, depth - 1)
        return mapping, at
    items = []
    for _ in range(length):
        item, at = _unpack(data, at, depth - 1)
        items.append(item)
    return items, at
