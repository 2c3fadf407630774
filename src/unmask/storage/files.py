"""Writing files so that a crash, a kill or a full disk never damages the last good one."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, it becomes `path` in one step.

    On an error the temporary file is removed and `path` is what it was before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def checksum(path: Path | str) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(path: Path, what: str) -> None:
    """Raise an OSError, which names `what` was asked for, if a file cannot be written at `path`."""
    if path.is_dir():
        raise IsADirectoryError(f"{what} {path}: is a folder, not a file")
    try:
        with replacing(path.with_name(f"{path.name}.try")) as temporary:
            temporary.touch()
        path.with_name(f"{path.name}.try").unlink()
    except OSError as error:
        raise OSError(f"{what} {path}: cannot be written ({error.strerror or error})") from None
