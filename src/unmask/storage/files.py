"""Writing files so that a crash, a kill or a full disk never damages the last good one; folders with one writer."""

import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unmask.processes import rank

LOCK, HOLDER = ".lock", ".lock.json"
TEMPORARY = re.compile(r"\..+\.\d+(\.\w+)?")
"""The names that `replacing` gives."""
SLOW_TO_END = 15.0
"""Seconds within which the worker processes of a process that was killed end; until then they hold its lock."""


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


def check_writable(path: Path, what: str, endings: Sequence[str] = ()) -> None:
    """Raise an error, which names `what` was asked for, if a file cannot be written at `path`.

    Args:
        path: of the file.
        what: was asked for, such as "--out".
        endings: that its name may have; none: any.

    Raises:
        ValueError: another ending.
        OSError: it cannot be written.
    """
    if rank():
        return  # process 0 writes
    if endings and path.suffix not in endings:
        names = " or ".join(filter(None, (", ".join(endings[:-1]), endings[-1])))
        raise ValueError(f"{what} {path}: the file must end in {names}")
    if path.is_dir():
        raise IsADirectoryError(f"{what} {path}: is a folder, not a file")
    try:
        with replacing(path.with_name(f"{path.name}.try")) as temporary:
            temporary.touch()
        path.with_name(f"{path.name}.try").unlink()
    except OSError as error:
        raise OSError(f"{what} {path}: cannot be written ({error.strerror or error})") from None


def remove_temporary(folder: Path) -> None:
    """Remove the temporary files that `replacing` and `save_pretrained` left in a folder when they were killed.

    Only where nothing writes into the folder: whoever calls this holds its lock.
    """
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink() and entry.name.startswith(".saving"):
            shutil.rmtree(entry)
        elif TEMPORARY.fullmatch(entry.name):
            entry.unlink()


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold the lock of a folder: one process at a time writes into it.

    The operating system lets go of the lock when a process ends, however it ends. Beside it lies who holds it. Folders
    that did not exist are removed again if they are left empty.

    Args:
        folder: made if it does not exist.
        what: the folder is, for the error.

    Raises:
        BlockingIOError: another process holds it; names its host, its number and since when.
        OSError: the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK, timeout=0)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            _wait_for_the_dead(folder, what)
            lock.acquire(timeout=1)
    except Timeout:
        raise _taken(folder, what) from None
    except BlockingIOError:
        raise
    except OSError as error:
        raise OSError(f"{folder}: cannot be written ({error.strerror or error})") from None
    try:
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "start": _started(os.getpid())}
        holder["since"] = datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
        (folder / HOLDER).write_text(json.dumps(holder), encoding="utf-8")
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        (folder / LOCK).unlink(missing_ok=True)  # while it is held: who opens it later finds that it is gone
        with suppress(OSError):  # it is not empty
            for path in made or [folder]:
                path.rmdir()
        lock.release()


@contextmanager
def locked_file(lock: Path, taken: str) -> Iterator[None]:
    """Hold a lock, which the operating system lets go of when the process ends.

    Args:
        lock: the file that is locked; it is removed at the end.
        taken: the error where another process holds it.

    Raises:
        BlockingIOError: another process holds it.
    """
    from filelock import FileLock, Timeout

    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise BlockingIOError(taken) from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        held.release()


def holder_of(folder: Path) -> dict[str, Any]:
    """Return who holds, or last held, the lock of a folder: host, pid, start and since; empty if nobody knows."""
    try:
        holder = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _taken(folder: Path, what: str) -> BlockingIOError:
    holder = holder_of(folder)
    who = "another process" if not holder else "process {pid} on {host} since {since}".format_map(_Known(holder))
    return BlockingIOError(f"{folder}: {who} is writing {what}; nothing was changed")


class _Known(dict):
    def __missing__(self, key: str) -> str:
        return "?"


def _wait_for_the_dead(folder: Path, what: str) -> None:
    """Return once the lock may be free, if its holder is dead; else raise."""
    end = time.monotonic() + SLOW_TO_END
    while _is_dead(holder_of(folder)):
        from filelock import FileLock, Timeout

        try:
            with FileLock(folder / LOCK, timeout=0.2):
                return
        except Timeout:
            if time.monotonic() > end:
                break
    raise _taken(folder, what)


def _is_dead(holder: dict[str, Any]) -> bool:
    """Return whether the holder of a lock is a process of this machine that has ended."""
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return _started(holder["pid"]) != holder.get("start")  # another process got its number


def _started(pid: int) -> str | None:
    """Return when a process began, in ticks since the machine started; None where that cannot be known."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
