"""TextStream: an answer's tokens turned into text that is safe to show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgellm.errors import UsageError

if TYPE_CHECKING:
    from edgellm.tokenizer import Tokenizer


class TextStream:
    """Decodes one answer as it comes, up to its end token or the first stop string.

    Text that may be the beginning of a stop string is held back until it is decided, so the pieces
    together are exactly the text before the stop string that begins first, however the text was cut
    into tokens.
    """

    stopped: bool
    """The answer has ended by itself; further tokens are ignored."""
    stop: str | None
    """The stop string that it ended at; None if it didn't, or at another end token."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        """A stop string that is one control token of the vocabulary stops as a token, too."""
        if isinstance(stop, str) or not all(isinstance(text, str) and text for text in stop):
            raise UsageError(f"stop is {stop!r}; it must be a list of non-empty texts")
        self.stopped, self.stop = False, None
        self._stop = tuple(dict.fromkeys(stop))
        self._ends: dict[int, str | None] = dict.fromkeys(tokenizer.eog)
        for text in self._stop:
            ids = tokenizer.encode(text, parse_special=True)
            if len(ids) == 1 and not tokenizer.piece(ids[0]):
                self._ends[ids[0]] = text
        self._decoder = tokenizer.stream()
        self._held = ""

    def push(self, token: int) -> str:
        """Text that became safe to show with this token; may be empty."""
        if self.stopped:
            return ""
        if token in self._ends:
            text = self.flush()
            if not self.stopped:
                self.stopped, self.stop = True, self._ends[token]
            return text
        return self._release(self._decoder.push(token), last=False)

    def flush(self) -> str:
        """What is still held back; call it once when the answer ends for another reason."""
        if self.stopped:
            return ""
        return self._release(self._decoder.flush(), last=True)

    def _release(self, text: str, last: bool) -> str:
        held = self._held + text
        places = ((at, stop) for stop in self._stop if (at := held.find(stop)) >= 0)
        found, stop = min(places, default=(len(held), ""))
        begun = len(held) if last else self._begun(held)
        if found < len(held) and found <= begun:
            self.stopped, self.stop = True, stop
            self._held = ""
            return held[:found]
        # A stop string that began earlier may still complete: it would win over the one found.
        self._held = held[begun:]
        return held[:begun]

    def _begun(self, held: str) -> int:
        """Where the earliest stop string begins that the end of `held` leaves undecided."""
        longest = 0
        for stop in self._stop:
            for length in range(min(len(stop) - 1, len(held)), longest, -1):
                if held.endswith(stop[:length]):
                    longest = length
                    break
        return len(held) - longest
