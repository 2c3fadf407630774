"""Files that are what they were when they were written: SHA-256, compared once for each version of a file."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unmask.storage.files import checksum
from unmask.storage.folders import cache_folder

ALWAYS = "UNMASK_VERIFY"
"""The variable of the environment that has every file compared whenever it is read: 1."""


def verify_file(path: Path, expected: str, where: str, *, always: bool = False) -> None:
    """Compare the SHA-256 of a file with what it was, unless that was done since the file was last written.

    A file that was found to be right is known by its path, size and time of writing, in the cache.

    Args:
        path: of the file.
        expected: its SHA-256, in hexadecimal.
        where: that is said, for the error.
        always: whether to compare it in any case, as with the variable UNMASK_VERIFY=1.

    Raises:
        ValueError: it is not what it was.
    """
    status = path.stat()
    known = [str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ino, expected]
    mark = cache_folder() / "verified" / hashlib.sha256(repr(known).encode("utf-8", "surrogateescape")).hexdigest()
    if mark.exists() and not always and os.environ.get(ALWAYS, "0") in ("", "0"):
        return
    if checksum(path) != expected:
        mark.unlink(missing_ok=True)
        raise ValueError(f"{path}: damaged: its SHA-256 is not what {where} says")
    with suppress(OSError):  # a cache that cannot be written
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


@contextmanager
def verifying(always: bool) -> Iterator[None]:
    """Have every file compared whenever it is read, if `always`."""
    before = os.environ.get(ALWAYS)
    if always:
        os.environ[ALWAYS] = "1"
    try:
        yield
    finally:
        os.environ.pop(ALWAYS, None)
        if before is not None:
            os.environ[ALWAYS] = before
