"""The state of a training on disk: all that it takes to go on as if nothing had happened."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgellm import atomic_file
from edgellm.errors import FormatError, UsageError
from edgellm.training.course import Course
from edgellm.training.memory import write
from edgellm.training.record import History, Look, Step

VERSION = 1
MAX_ABOUT = 256 << 20

# What zipfile, json and the look at what they gave raise for a file of another kind.
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, ValueError, LookupError, TypeError, AttributeError),
    *(RuntimeError, EOFError, OverflowError),
)


def save(path: Path, course: Course, settings: Mapping[str, object]) -> None:
    """Write a course's state, whole or not at all; `settings` must be the same when it's restored.
    Raises OSError."""
    about = {
        "version": VERSION,
        "settings": settings,
        "taken": course.optimiser.taken,
        "history": course.history.as_json(),
    }
    arrays = {
        **{f"learnt {name}": values for name, values in course.network.arrays().items()},
        **{f"best {name}": values for name, values in course.best.items()},
        **course.optimiser.arrays(),
        **(course.tie.arrays() if course.tie else {}),
    }
    with (
        atomic_file.writing(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive,
    ):
        archive.writestr("about.json", json.dumps(about))
        for name, values in arrays.items():
            with archive.open(name, "w", force_zip64=True) as entry:
                entry.write(values.astype("<f4").tobytes())


def restore(path: Path, course: Course, settings: Mapping[str, object]) -> None:
    """Bring a course to where it was saved.

    Raises FormatError for a file that isn't such a state, UsageError where it was saved with other
    settings, or can't be opened.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _restore(path, archive, course, settings)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; leave --resume out to begin anew") from error
    except _BROKEN as error:
        allowed = "it isn't the state of a training; leave --resume out to begin anew"
        raise FormatError(path, "content", str(error), allowed) from error


def _restore(
    path: Path, archive: zipfile.ZipFile, course: Course, settings: Mapping[str, object]
) -> None:
    if archive.getinfo("about.json").file_size > MAX_ABOUT:
        raise ValueError("about.json is too long")
    about = json.loads(archive.read("about.json"))
    if about["version"] != VERSION:
        raise ValueError(f"version {about['version']}")
    for key, value in json.loads(json.dumps(settings)).items():
        was = about["settings"].get(key)
        if was != value:
            raise UsageError(
                f"{path}: saved with {key} {was!r}, not {value!r}; give the same options, or leave "
                "--resume out to begin anew"
            )
    history = about["history"]
    course.history = History(
        [Step(**step) for step in history["steps"]], [Look(**look) for look in history["looks"]]
    )

    def array(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        size = archive.getinfo(name).file_size
        if size != 4 * math.prod(shape):
            raise ValueError(f"{name} has {size} bytes")
        values = np.frombuffer(archive.read(name), "<f4").astype(np.float32)
        return values.reshape(shape)

    shapes = {name: tuple(map(int, x.shape)) for name, x in course.network.learnt.items()}
    for name, tensor in course.network.learnt.items():
        write(tensor, array(f"learnt {name}", shapes[name]))
    if f"best {next(iter(shapes))}" in archive.namelist():
        course.best = {name: array(f"best {name}", shape) for name, shape in shapes.items()}
    moments = {name: array(name, x.shape) for name, x in course.optimiser.arrays().items()}
    course.optimiser.restore(int(about["taken"]), moments)
    if course.tie:
        course.tie.restore({name: array(name, x.shape) for name, x in course.tie.arrays().items()})
