"""Shards of corpora that lie elsewhere: on this machine as long as there is room, fetched before they are needed."""

import os
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from unmask.storage.files import checksum
from unmask.storage.folders import cache_folder
from unmask.storage.remote import fetch
from unmask.storage.sums import ALWAYS

LIMIT = "UNMASK_CACHE_GB"
"""The variable of the environment that says how many gigabytes of shards are kept; 50 if it is not set."""
THREADS = 4


def room() -> int:
    """Return how many bytes of shards are kept.

    Raises:
        ValueError: the variable holds no positive number.
    """
    text = os.environ.get(LIMIT, "50")
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not size > 0:
        raise ValueError(f"{LIMIT} must be a positive number of gigabytes, got {text!r}")
    return int(size * 1e9)


class ShardCache:
    """Copies of files of a folder elsewhere, by their SHA-256, which is compared as they come.

    All processes of a machine, and all corpora, share one folder. For want of room, what was used longest ago goes.

    Args:
        url: of the folder.

    Attributes:
        fetched: names of the files that this process has copied, in order.
    """

    def __init__(self, url: str) -> None:
        self.url, self.folder, self.limit = url.rstrip("/"), cache_folder() / "shards", room()
        self.fetched: list[str] = []
        self.coming: dict[str, Future[Path]] = {}
        self.lock = threading.Lock()
        self.pool: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.url}  # a worker process begins anew

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(state["url"])  # type: ignore[misc]

    def get(self, name: str, sha256: str) -> Path:
        """Return the copy of a file; wait for it where it is not there yet.

        Raises:
            FileNotFoundError, ConnectionError, ImportError: see `unmask.storage.remote.naming`.
            ValueError: the file is not what it was when it was written.
        """
        with self.lock:
            coming = self.coming.pop(sha256, None)
        if coming is not None:
            with suppress(Exception):  # it is tried once more, and the error is said then
                coming.result()
        return self._get(name, sha256)

    def expect(self, files: Iterable[tuple[str, str]]) -> None:
        """Begin to fetch files (name, SHA-256) in the background; what goes wrong is said by `get`."""
        with self.lock:
            if self.pool is None:
                self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="shards")
            self.coming = {key: one for key, one in self.coming.items() if not one.done()}
            for name, sha256 in files:
                if sha256 not in self.coming and not self._path(sha256).exists():
                    self.coming[sha256] = self.pool.submit(self._get, name, sha256)

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256

    def _get(self, name: str, sha256: str) -> Path:
        from filelock import FileLock

        path = self._path(sha256)
        if self._is_here(path, sha256):
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = self.folder / f".{sha256}.lock"
        with FileLock(lock):
            if not self._is_here(path, sha256):
                fetch(f"{self.url}/{name}", path, sha256)
                self.fetched.append(name)
                self._make_room(path)
            lock.unlink(missing_ok=True)
        return path

    def _is_here(self, path: Path, sha256: str) -> bool:
        """Return whether a copy is there, and note that it is used."""
        try:
            os.utime(path)
        except OSError:
            return False
        return os.environ.get(ALWAYS, "0") in ("", "0") or checksum(path) == sha256

    def _make_room(self, newest: Path) -> None:
        """Remove what was used longest ago until all that is kept fits; never the newest."""
        kept = []
        for path in self.folder.iterdir():
            with suppress(OSError):  # another process was faster
                if path.name[0] != ".":
                    status = path.stat()
                    kept.append((status.st_mtime_ns, status.st_size, path))
        size = sum(one for _, one, _ in kept)
        for _, one, path in sorted(kept):
            if size <= self.limit:
                return
            if path != newest:
                with suppress(OSError):  # where it is open, on some systems
                    path.unlink()
                    size -= one
