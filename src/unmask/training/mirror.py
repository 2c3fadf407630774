"""A copy elsewhere of the folder of a run, brought up to date after each checkpoint, in the background."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

from unmask.storage.folders import CHECKPOINT, RUN
from unmask.storage.remote import filesystem, naming
from unmask.training.folder import CONTENTS, COPYING, contents
from unmask.training.run import read_record

Version = tuple[int, int]


class Mirror:
    """Copies the folder of a run elsewhere.

    A checkpoint that comes while the one before is still being copied is left out: training does not wait. The files
    that a checkpoint names are copied before it, and removed after it. Files that no run has written stay.

    Args:
        folder: of the run.
        url: where its copy is, such as s3://bucket/runs/owt.

    Raises:
        ConnectionError, ImportError: nothing can be written there.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url.rstrip("/")
        self.fs, self.path = filesystem(url)
        self.sent: dict[str, Version] = {}
        self.thread: Thread | None = None
        self.error: Exception | None = None
        with naming(self.url, "written"):
            self.fs.makedirs(self.path, exist_ok=True)
            self.fs.pipe_file(f"{self.path}/.writable", b"")
            self.fs.rm_file(f"{self.path}/.writable")
            self.fs.invalidate_cache(self.path)
            before = {there[len(self.path) :].lstrip("/") for there in self.fs.find(self.path)}
        self.replaced = {name for name in before if _top(name) in CONTENTS} if RUN in before else set[str]()

    def check_run(self) -> None:
        """Raise a ValueError unless the run elsewhere is the one in the folder, at whatever step."""
        with naming(self.url):
            there = self.fs.cat_file(f"{self.path}/{RUN}")
        before, here = json.loads(there), read_record(self.folder)
        if other := [name for name in ("data_sha256", "network", "objective") if before.get(name) != here[name]]:
            raise ValueError(f"{self.url} holds another run, whose {other[0]} differs: give another --mirror")

    def copy(self) -> None:
        """Begin to copy what the folder holds now, unless the last copy is still under way."""
        if self.thread is not None and self.thread.is_alive():
            return
        self._say_error("it is tried again after the next checkpoint")
        self.thread = Thread(target=self._send, args=(self._taken(),), name="mirror")
        self.thread.start()

    def finish(self) -> None:
        """Copy what the folder holds now, and wait for it.

        Raises:
            ConnectionError: it could not be copied; the run is whole in its folder.
        """
        if self.thread is not None:
            self.thread.join()
        self.error = None
        self._send(self._taken())
        if self.error is not None:
            raise ConnectionError(f"{self.error}. The run is whole in {self.folder}")

    def _say_error(self, then: str) -> None:
        if self.error is not None:
            print(f"unmask: warning: {self.error}; {then}", file=sys.stderr)
            self.error = None

    def _taken(self) -> Path:
        """Return a folder with the files of the run as they are now, which later checkpoints do not replace."""
        place = Path(tempfile.mkdtemp(prefix=COPYING, dir=self.folder))
        for file in files_of(self.folder):
            there = place / file
            there.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(self.folder / file, there)
            except OSError:  # a file system without links
                shutil.copy2(self.folder / file, there)
        return place

    def _send(self, place: Path) -> None:
        try:
            with naming(self.url, "written"):
                self._send_files(place)
        except Exception as error:  # in a thread: said before the next copy, or at the end
            self.error = error
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _send_files(self, place: Path) -> None:
        last = (RUN, CHECKPOINT.as_posix())
        found = sorted((file.as_posix() for file in files_of(place)), key=lambda name: (name in last, name == last[1]))
        for name in found:
            if self.sent.get(name) == (version := _version(place / name)):
                continue
            there = f"{self.path}/{name}"
            self.fs.makedirs(there.rpartition("/")[0], exist_ok=True)
            self.fs.put_file(os.fspath(place / name), there)
            self.sent[name] = version
        for name in (self.sent.keys() | self.replaced) - set(found):
            with suppress(FileNotFoundError):
                self.fs.rm_file(f"{self.path}/{name}")
            self.sent.pop(name, None)
        self.replaced = set()


@contextmanager
def mirrored(folder: Path, url: str | None, *, resume: bool, overwrite: bool) -> Iterator[Mirror | None]:
    """Yield what copies a run elsewhere; at the end of the block, however it ends, the copy is up to date.

    Args:
        folder: of the run.
        url: of the copy; None: there is none.
        resume: whether the run goes on.
        overwrite: whether a run that is there may be replaced.

    Raises:
        ValueError: a run is in the way.
        ConnectionError, ImportError: nothing can be written there.
    """
    if url is None:
        yield None
        return
    mirror = Mirror(folder, url)
    if mirror.replaced and not (resume or overwrite):
        raise ValueError(f"{url} holds a run: give --resume, --overwrite, or another --mirror")
    if mirror.replaced and resume:
        mirror.check_run()
    try:
        yield mirror
    except BaseException:
        if (folder / CHECKPOINT).is_file():
            _finish_quietly(mirror)
        raise
    mirror.finish()


def _finish_quietly(mirror: Mirror) -> None:
    """Bring a copy up to date where another error is already on its way."""
    try:
        mirror.finish()
    except ConnectionError as error:
        print(f"unmask: warning: {error}", file=sys.stderr)


def files_of(folder: Path) -> list[Path]:
    """Return the files that a run has written into its folder, relative to it, without those that are half written."""
    tops = (folder / name for name in contents(folder))
    found = (path for top in tops for path in (sorted(top.rglob("*")) if top.is_dir() else [top]) if path.is_file())
    return [path.relative_to(folder) for path in found if not path.name.startswith(".")]


def _top(name: str) -> str:
    return name.partition("/")[0]


def _version(path: Path) -> Version:
    """Return what tells a file from an earlier one of the same name."""
    status: Any = path.stat()
    return status.st_size, status.st_mtime_ns
