"""A run's copy elsewhere: brought up to date after each checkpoint, while training goes on."""

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unmask.storage.checkpoint import checkpoint_step
from unmask.storage.folders import CHECKPOINT
from unmask.storage.mirror import Mirror, read_mirror, send, write_mirror
from unmask.training.folder import COPIED, contents

WAIT = 2.0
"""Seconds between two signs of life while the processes of a run wait for the last copy."""


class Mirroring:
    """Copies the folder of a run elsewhere, in a thread of its own.

    A checkpoint that comes while the one before is still being copied is left out, unless it is the last.

    Args:
        out: folder of the run.
        url: of the copy.
        run: which run it is.
    """

    def __init__(self, out: Path, url: str, run: str) -> None:
        self.out, self.url, self.run = out, url, run
        self.there: Mirror | None = None
        self.thread: threading.Thread | None = None
        self.error: Exception | None = None

    def check(self, step: int, overwrite: bool) -> None:
        """See that the place can be read and written, and that nothing is lost by writing there.

        Args:
            step: of the checkpoint in the folder; -1: there is none.
            overwrite: whether another run that is there may be replaced. It stays until this one's first checkpoint.

        Raises:
            ValueError: another run is there, or a later checkpoint of this one.
            FileNotFoundError, ConnectionError, ImportError: see `unmask.storage.remote.naming`.
        """
        there = read_mirror(self.url)
        if there is not None and there.step >= 0 and not overwrite:
            if there.run != self.run:
                raise ValueError(
                    f"{self.url} holds another run, at step {there.step}: give --overwrite, or another --mirror; "
                    f"to go on with it, unmask pull {self.url} FOLDER"
                )
            if there.step > step:
                behind = f"{self.url} is at step {there.step}, {self.out} at {max(step, 0)}"
                raise ValueError(f"{behind}: bring it here first, with unmask pull {self.url} {self.out}")
        if there is None or there.step < 0:
            there = Mirror(self.run, unused=there.unused if there else [])
        write_mirror(self.url, there)
        self.there = there

    def begin(self, step: int, last: bool = False) -> None:
        """Begin to copy the folder as it is now.

        Args:
            step: of its checkpoint.
            last: whether no later one comes, so that it waits for the one before.
        """
        if self.thread is not None and self.thread.is_alive():
            if not last:
                return
            self.thread.join()
        if self.error is not None:
            print(f"unmask: warning: {self.error}; training goes on", file=sys.stderr)
            self.error = None
        try:
            snapshot = _snapshot(self.out)
        except OSError as error:
            self.error = error
            return
        self.thread = threading.Thread(target=self._send, args=(snapshot, step), daemon=True)
        self.thread.start()

    def done(self, seconds: float = WAIT) -> bool:
        """Wait for some seconds, and return whether nothing is being copied any more."""
        if self.thread is not None:
            self.thread.join(seconds)
        return self.thread is None or not self.thread.is_alive()

    def finish(self, step: int) -> None:
        """Copy what the run has written last, and wait for it.

        Raises:
            ConnectionError: it cannot be; the run is whole here.
        """
        self.begin(step, last=True)
        while not self.done():
            pass
        if self.error is not None:
            kept = f"the run is whole in {self.out}; the same command with --resume copies it"
            raise ConnectionError(f"{self.error}; {kept}") from self.error

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Where training ends early, wait until the last checkpoint is copied, and what run.json says of the end."""
        try:
            yield
        except BaseException:
            if (self.out / CHECKPOINT).is_file():
                self._wait(checkpoint_step(self.out / CHECKPOINT))
            raise

    def _wait(self, step: int) -> None:
        main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, signal.default_int_handler) if main else None  # lightning ignores it
        try:
            self.begin(step, last=True)
            if not self.done():
                print(f"the checkpoint is being copied to {self.url}; Ctrl-C leaves it as it is", file=sys.stderr)
            while not self.done():
                pass
            if self.error is not None:
                print(f"unmask: warning: {self.error}", file=sys.stderr)
        except KeyboardInterrupt:
            print(f"unmask: warning: {self.url} is of an earlier checkpoint", file=sys.stderr)
        finally:
            if main:
                signal.signal(signal.SIGINT, before)

    def _send(self, snapshot: Path, step: int) -> None:
        try:
            self.there = send(snapshot, self.url, self.run, step, self.there)
        except Exception as error:  # said when it is known whether another one follows
            self.error = error
            with suppress(Exception):  # with the names of files that have come before it
                self.there = read_mirror(self.url)
        finally:
            shutil.rmtree(snapshot, ignore_errors=True)


def _snapshot(out: Path) -> Path:
    """Return a folder with the files of a run as they are now; those that are only ever replaced are links."""
    place = out / COPIED
    shutil.rmtree(place, ignore_errors=True)
    for name in contents(out):
        files = [out / name] if (out / name).is_file() else [one for one in (out / name).rglob("*") if one.is_file()]
        for file in files:
            if not file.name.startswith("."):
                target = place / file.relative_to(out)
                target.parent.mkdir(parents=True, exist_ok=True)
                if file.suffix == ".safetensors":
                    _link(file, target)
                else:
                    shutil.copyfile(file, target)
    return place


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # not every file system has links
        shutil.copyfile(file, target)
