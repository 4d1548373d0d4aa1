"""Dialogues that the default model is trained on: made up from a seed, never collected.

`conversation` makes one; `held_out=True` uses nouns, places and phrasings that training never sees.
"""

from edgellm.training.dialogues.scenes import conversation

__all__ = ["conversation"]
