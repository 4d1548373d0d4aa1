"""What comes over a serial line and isn't the device's: told from its lines before they are read.

Whoever is joined to a line may speak on it. A computer at the other end offers a login there or
prints its start messages, its modem manager tries every new port with AT commands, a board's boot
loader speaks before the board's own program does, at another speed even, and a line that nobody
drives yields random bytes. None of it is a question to the model, and an answer to it would do
harm: typed at a login, or taken by a boot loader for a command.

Random bytes hold zeros, too, which otherwise begin frame mode for good (see the README's chapter on
the wire). So frame mode begins here at the first frame that is sound.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from edgellm.link.fields import MAX_MTU
from edgellm.link.frames import Decoder
from edgellm.link.lines import MAX_LINE

SETTLE = 0.25
"""Seconds of silence after which what follows a zero byte is no frame: at 300 baud a byte takes
0.033 s, and USB adapters hold bytes back for 0.016 s."""

MAX_FRAME = 2048
"""Bytes after a zero in which a frame should have ended; the longest takes half of that."""

MAX_STRAY = 400
"""Bytes of a line that is looked at as a whole: what isn't the device's is short."""

LOGIN = (
    "the machine at the other end offers a login (getty) on this line, which isn't answered; to "
    "remove it, there: sudo systemctl disable --now serial-getty@ttyAMA0 (its own name of the "
    "port), and take console=serial0 out of cmdline.txt, the kernel's command line"
)
CONSOLE = (
    "the machine at the other end prints its start and kernel messages on this line, which are "
    "ignored; to stop them, take console=serial0 (or its own name of the port) there out of "
    "cmdline.txt, the kernel's command line"
)
PROBE = (
    "something at the other end looks for a modem with AT commands (ModemManager?), which are "
    "ignored; to stop it, there: sudo systemctl disable --now ModemManager"
)

_SYSTEM = rb"Linux|Debian|Raspbian|Ubuntu|Fedora|Alpine|Armbian|Buildroot|Arch|LTS"
_KINDS = (
    (
        LOGIN,
        rb"(?:[\w.-]{1,64} )?(?:login|Password): ?.{0,32}"
        rb"|Login (?:incorrect|timed out).*"
        rb"|Welcome to (?:" + _SYSTEM + rb").*"
        rb"|(?=.*(?:" + _SYSTEM + rb")).* (?:tty[A-Za-z]{1,4}\d{1,3}|console)",
    ),
    (
        CONSOLE,
        rb"\[ {0,5}\d{1,7}\.\d{6}\].*"
        rb"|\[(?:  OK  |FAILED|DEPEND| TIME | INFO |\*{1,3} {0,5}| {1,5}\*{1,3} {0,4})\] .*"
        rb"|(?:U-Boot (?:SPL )?\d|Hit any key to stop autoboot|Starting kernel \.\.\.).*",
    ),
    (PROBE, rb"AT(?:[EIZVQHX]\d?)*(?:[+&#%$*\\^][!-~]*)?"),
    (
        "",  # a board that starts, or shows its Python prompt: every day's business
        rb"(?:ets [A-Z][a-z]{2} |ESP-ROM:|Build:[A-Z]|rst:0x|rst cause:|configsip:|clk_drv:0x"
        rb"|SPIWP:0x|mode:[DQ][IO]|load[: ]0x|entry 0x|chksum 0x|csum 0x|Guru Meditation"
        rb"|Backtrace: ?0x|Brownout detector|Rebooting\.\.\.|MicroPython v\d|Adafruit Circuit"
        rb'|Type "help\(\)"|>>>|MPY: soft reboot|Auto-reload is o|code\.py output:).*'
        rb"|[EWIDV] \(\d{1,10}\) [\w.-]{1,40}: .*"
        rb"|tail \d{1,3}|csum .{4}|~ld",
    ),
)
_STRAYS = [(about, re.compile(pattern, re.DOTALL)) for about, pattern in _KINDS]
_FRAGMENT = re.compile(rb"rst cause:|boot mode:|_drv:0x|SPIWP:0x|0x[0-9a-fA-F]{6,8}\b")
"""Where the line was opened in the middle of a boot loader's."""
_PROMPT = re.compile(rb"\s*[\w.-]{1,64} login: ?|\s*Password: ?")
_ENDING = re.compile(rb"(\r\n|\r|\n)")
_ESCAPE = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]")
_NOISE = re.compile(rb"[\x01-\x07\x0e-\x1a\x1c-\x1f]")
"""Control characters that no keyboard sends by accident."""


class Strays:
    """The filter of one line: `receive` takes what came and returns what is the device's.

    Text is held back up to the end of its line, and what follows a zero byte until a frame is
    sound; from then on everything passes. At most MAX_LINE and a read's bytes are held.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        """`tell` gets a sentence for the user, each once."""
        self.noise = 0
        """How many lines and would-be frames were dropped."""
        self._tell = tell
        self._told: set[str] = set()
        self.restart()

    def restart(self) -> None:
        """The line is opened anew."""
        self.framed: bool | None = None
        """Whether the device talks in frames; None until it has said something sensible."""
        self._text = bytearray()
        self._frame = bytearray()  # from a zero byte on
        self._decoder = Decoder(MAX_MTU)
        self._passing = False  # a line longer than MAX_LINE: its refusal is for the device
        self._returned: bool | None = None  # a CR came last; whether it was the device's

    @property
    def undecided(self) -> bool:
        """Whether `settle` should be called after SETTLE seconds without a byte."""
        return bool(self._frame)

    def receive(self, data: bytes) -> bytes:
        """Take what came, cut anywhere; what is the device's of it and of what was held."""
        if self.framed:
            return data
        if not self._frame:
            text, zero, data = data.partition(b"\0")
            kept = self._receive_text(text)
            if not zero:
                return kept
            self._text.clear()  # incomplete, see the wire's specification
            self._passing = False
            self._returned = None
            return kept + self._receive_frame(zero + data)
        return self._receive_frame(data)

    def settle(self) -> bytes:
        """Nothing has come for SETTLE seconds: what follows the last zero was text, if anything."""
        text = self._frame.rpartition(b"\0")[2]
        self._frame.clear()
        self._decoder = Decoder(MAX_MTU)
        self.noise += 1
        return self._receive_text(bytes(text))

    def end(self) -> bytes:
        """The line has ended; what was held."""
        kept = self.settle() if self._frame else b""
        if self._text and self._is_stray(bytes(self._text)):
            self._text.clear()
        rest, self._text = bytes(self._text), bytearray()
        return kept + rest

    def _receive_frame(self, data: bytes) -> bytes:
        self._frame += data
        if self._decoder.receive(data):
            self.framed = True
            data, self._frame = bytes(self._frame), bytearray()
            return data
        if len(self._frame) > MAX_FRAME:
            del self._frame[: self._frame.rindex(b"\0")]  # it begins with one
            if len(self._frame) > MAX_FRAME:
                return self.settle()
        return b""

    def _receive_text(self, data: bytes) -> bytes:
        if self._returned is not None and data:
            kept = data[:1] if self._returned and data[:1] == b"\n" else b""
            data = data.removeprefix(b"\n")
            self._returned = None
        else:
            kept = b""
        pieces = _ENDING.split(data)
        for line, ending in zip(pieces[:-1:2], pieces[1::2], strict=True):
            kept += self._end_line(line, ending)
        if pieces[-1]:
            self._returned = None
        self._text += pieces[-1]
        if self._passing or len(self._text) > MAX_LINE:
            self._passing = True
            text, self._text = bytes(self._text), bytearray()
            return kept + text
        # It waits for a name, no line ending follows.
        if len(self._text) <= MAX_STRAY and _PROMPT.fullmatch(self._text):
            self._drop(LOGIN)
            self._text.clear()
        return kept

    def _end_line(self, line: bytes, ending: bytes) -> bytes:
        line, self._text = bytes(self._text) + line, bytearray()
        passing, self._passing = self._passing, False
        dropped = not passing and self._is_stray(line)
        self._returned = not dropped if ending == b"\r" else None
        return b"" if dropped else line + ending

    def _is_stray(self, line: bytes) -> bool:
        bare = _ESCAPE.sub(b"", line).strip()
        if not bare:
            return False
        for about, pattern in _STRAYS:
            if len(bare) <= MAX_STRAY and pattern.fullmatch(bare):
                self._drop(about)
                return True
        try:
            line.decode()
        except UnicodeDecodeError:
            self._drop("")
            return True
        if self.framed is None and (_NOISE.search(line) or _FRAGMENT.search(line)):
            self._drop("")
            return True
        self.framed = False
        return False

    def _drop(self, about: str) -> None:
        self.noise += 1
        if about and about not in self._told:
            self._told.add(about)
            self._tell(about)
