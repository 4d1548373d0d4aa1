"""Run in the emulated machine: the logits of bundles, NAME.edge in a folder, for NAME.npy's tokens.

They are written as NAME.logits.npy; a bundle that can't be opened ends the program.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import edgellm


def main(folder: Path) -> None:
    for tokens in sorted(folder.glob("*.tokens.npy")):
        name = tokens.name.removesuffix(".tokens.npy")
        ids = np.load(tokens).tolist()
        with edgellm.load(folder / f"{name}.edge", threads=2) as model:
            np.save(folder / f"{name}.logits.npy", model.logits(ids))


main(Path(sys.argv[1]))
