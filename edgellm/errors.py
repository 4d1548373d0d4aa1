"""What can go wrong, as a tree. Only `edgellm.cli` prints these and picks the exit status.

EdgeError
  UsageError            an argument or option that cannot be used
  FormatError           a file from outside breaks its format
    UnsupportedError    the file is sound, but holds something edgellm doesn't run
  TrustError            a bundle that nobody trusted has signed
  TemplateError         a chat template fails, or exceeds its limits
  FitError              the model doesn't fit this machine
  PluginError           a plugin is missing, broken or misspells a hook
  BackendError          a backend can't compile or run
  ContextError          a prompt is longer than the context, or JSON than the answer may be
  BusyError             the queue is full
  ExpiredError          a request waited in the queue until its deadline
  StaleError            a question older than what is kept of its session
  UnknownError          a question's number that its session doesn't know
  LinkError             the line to a device
    PeerError           the peer breaks the rules of the link
  TerminatedError       the system, or its administrator, ends the command
"""

from __future__ import annotations

import reprlib

# A value out of a hostile file may be huge: it isn't spelled out only to be cut.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


class EdgeError(Exception):
    """Base of every error that edgellm raises on purpose; its text is one line for the user."""

    exit_status = 1


class UsageError(EdgeError):
    """An argument or option cannot be used as given."""

    exit_status = 2


class FormatError(EdgeError):
    """A file breaks its format: which file, which field, what it holds, what would be allowed."""

    exit_status = 5

    def __init__(self, file: object, field: str, value: object, allowed: str) -> None:
        self.file, self.field, self.value, self.allowed = str(file), field, value, allowed
        shown = _SHORT.repr(value).replace("\n", " ")
        if len(shown) > 80:
            shown = shown[:77] + "..."
        super().__init__(f"{self.file}: {field} is {shown}; {allowed}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.file, self.field, self.value, self.allowed)


class UnsupportedError(FormatError):
    """The file is sound, but asks for an architecture, key, tensor or type that isn't supported."""


class TrustError(EdgeError):
    """A bundle holds native code, and nobody who is trusted here has signed it."""

    exit_status = 4


class TemplateError(EdgeError):
    """A chat template cannot be compiled or rendered within its limits."""


class FitError(EdgeError):
    """The model doesn't fit into this machine's memory."""

    exit_status = 3


class PluginError(EdgeError):
    """A plugin is missing, fails to load, or implements a hook that doesn't exist."""

    def __init__(self, plugin: str, message: str) -> None:
        self.plugin = plugin
        super().__init__(f"plugin {plugin!r}: {message}")


class BackendError(EdgeError):
    """A backend cannot compile or run the model."""


class ContextError(EdgeError):
    """A prompt, or an answer that must be whole, needs more tokens than there are."""


class BusyError(EdgeError):
    """The queue is full; `place` is where the request would stand, `retry_ms` when to ask again."""

    exit_status = 7

    def __init__(self, place: int, retry_ms: int) -> None:
        self.place, self.retry_ms = place, retry_ms
        super().__init__(f"busy: {place} requests are waiting; ask again in {retry_ms} ms")


class ExpiredError(EdgeError):
    """A request's deadline passed before its answer could begin."""

    exit_status = 7


class StaleError(EdgeError):
    """A question has a number below one that its session has already seen, and isn't kept."""


class UnknownError(EdgeError):
    """A question's number is unknown to its session, so there is nothing to resume."""


class LinkError(EdgeError):
    """The line to a device failed."""

    exit_status = 6


class PeerError(LinkError):
    """The peer breaks the rules of the link: its mistake, never this end's."""


class TerminatedError(EdgeError):
    """SIGTERM has ended a command before it was done."""

    exit_status = 128 + 15
