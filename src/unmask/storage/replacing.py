"""One corpus in the place of another: the old one or the new one is there whole, whatever kill comes between.

Beside the folder X of a corpus may lie

    .X.new     the new corpus, while it is prepared
    .X.old     the old corpus, from when the new one is complete until it has taken its place
    .X.lock    held by whoever replaces it

The rename of X to .X.old decides for the new corpus: whoever comes next finishes what is left.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from unmask.storage.folders import INDEX


def new_folder(folder: Path) -> Path:
    """Return where the corpus is prepared that is to take the place of a folder."""
    return folder.with_name(f".{folder.name}.new")


def old_folder(folder: Path) -> Path:
    """Return where a corpus waits until another has taken its place."""
    return folder.with_name(f".{folder.name}.old")


def is_there(path: Path) -> bool:
    """Return whether there is something at a path, be it a corpus that a kill has left half replaced."""
    old = old_folder(path) if path.name else path
    return path.exists() or (not old.is_symlink() and (old / INDEX).is_file())


def lock_file(folder: Path) -> Path:
    """Return the lock of whoever replaces a corpus."""
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def replacing_lock(folder: Path, seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock of whoever replaces a corpus.

    Raises:
        ValueError: another process holds it for longer than `seconds`.
    """
    lock = FileLock(lock_file(folder), timeout=seconds)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"{folder}: another process is replacing it; nothing was changed") from None
    try:
        yield
    finally:
        lock_file(folder).unlink(missing_ok=True)  # while it is held: who opens it later finds that it is gone
        lock.release()


def finish_replacing(folder: Path) -> None:
    """Leave one corpus whole, and nothing beside it; whoever calls this holds the lock.

    Raises:
        ValueError: somebody has put something else in the place of the corpus, or of what waits beside it.
    """
    old, new = old_folder(folder), new_folder(folder)
    for path in (old, new):
        if path.is_symlink():
            raise ValueError(f"{path}: is a link, not a corpus; move it away")
    if old.is_dir():
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        if not folder.exists():
            whole = new if (new / INDEX).is_file() else old
            if not (whole / INDEX).is_file():
                raise ValueError(f"{old}: is no corpus, though it has the name of one that waits; move it away")
            os.rename(whole, folder)
        if not (folder / INDEX).is_file():
            raise ValueError(f"{folder}: holds something else, not the corpus that waits in {old}; move it away")
        if old.is_dir():
            shutil.rmtree(old)
    if new.is_dir():
        shutil.rmtree(new)


def settle(folder: Path, seconds: float = 0.0) -> None:
    """Finish what a process that was killed has left; raise a ValueError if it is still at work after `seconds`."""
    if any(path.exists() for path in (new_folder(folder), old_folder(folder), lock_file(folder))):
        with replacing_lock(folder, seconds):
            finish_replacing(folder)
