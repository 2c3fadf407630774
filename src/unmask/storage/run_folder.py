"""The folder of a run: one writer, and an old run that comes back unless the new one gets to a checkpoint.

Two folders inside it say whose files the others are, whatever kill comes between two moves:

    .moving/   the old run is half in here and half outside: what is in here goes back
    .old/      the old run is all in here: what is outside belongs to the new run

`.moving` becomes `.old`, and back, by one rename. `.old` goes once the new run has a checkpoint; without one the files
of the new run go, and those of the old come back.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unmask.storage.files import locked, remove_temporary
from unmask.storage.folders import CHECKPOINT, MODEL, RUN
from unmask.storage.objects import read_object
from unmask.storage.remote import is_file_name

CODEC = ".codec"
CONTENTS = (CODEC, "checkpoints", "logs", "lightning_logs", "tensorboard", MODEL, "loss.png")
"""What a run writes into its folder, beside run.json and the files of its codec; anything else is the user's."""
MOVING, OLD, TRASH = ".moving", ".old", ".trash"
COPIED = ".copied"
"""Files on their way to a copy of the run elsewhere."""


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, and put in order what a process that was killed has left in it.

    Raises:
        BlockingIOError: another process trains into it.
    """
    with locked(out, "the run"):
        recover(out)
        for folder in (out, out / "checkpoints", out / "model"):
            remove_temporary(folder)
        yield


def contents(out: Path) -> list[str]:
    """Return the names of what a run has written into a folder; run.json, which says some of them, is the last."""
    return [name for name in (*CONTENTS, *codec_files(out), RUN) if os.path.lexists(out / name)]


def codec_files(out: Path) -> list[str]:
    """Return the names of the files that the codec of a run needs."""
    try:
        names = read_object(out / RUN)["codec_files"]
    except (OSError, ValueError, KeyError):
        return []
    plain = isinstance(names, list) and all(map(is_file_name, names))
    return [name for name in names if name not in (*CONTENTS, RUN) and not (out / name).is_dir()] if plain else []


@contextmanager
def new_run(out: Path) -> Iterator[None]:
    """Set an old run aside; it comes back at the end unless the new one has got to a checkpoint by then."""
    try:
        (out / MOVING).mkdir()
        for name in contents(out):
            os.rename(out / name, out / MOVING / name)
        os.rename(out / MOVING, out / OLD)
        yield
    finally:
        recover(out)


def recover(out: Path) -> None:
    """Leave one run whole: the old one, or the new one if it has a checkpoint."""
    _remove(out / TRASH)
    _remove(out / COPIED)
    for name in (OLD, MOVING):
        if (out / name).is_symlink():  # what it leads to is no part of a run
            (out / name).unlink()
    if (out / OLD).is_dir():
        if (out / CHECKPOINT).is_file():
            os.rename(out / OLD, out / TRASH)
            _remove(out / TRASH)
        else:
            for name in contents(out):
                _remove(out / name)
            os.rename(out / OLD, out / MOVING)
    if (out / MOVING).is_dir():
        for entry in sorted((out / MOVING).iterdir()):
            os.rename(entry, out / entry.name)
        (out / MOVING).rmdir()


def settle_run(out: Path) -> None:
    """Bring back an old run that a process was to replace which was killed before the first checkpoint of the new one.

    For whoever reads the folder: nothing is done while another process trains into it, or where it cannot be written.
    """
    old, moving = out / OLD, out / MOVING
    aside = (old / RUN).is_file() and not old.is_symlink() and not any((out / x).exists() for x in (CHECKPOINT, MODEL))
    between = moving.is_dir() and not moving.is_symlink() and any((x / RUN).is_file() for x in (out, moving))
    if aside or between:
        with suppress(OSError), held(out):
            pass


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
