"""Devices that the default model learns to work: their tools, what people ask of them, and the
calls that are right; made up from a seed, never collected.

`lesson` makes one; what is held out of training is asked for by name.
"""

from edgellm.training.devices.lesson import Held, Lesson, Turn, lesson, toolless

__all__ = ["Held", "Lesson", "Turn", "lesson", "toolless"]
