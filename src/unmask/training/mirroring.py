"""A run's copy elsewhere: brought up to date after each checkpoint, while training goes on."""

import os
import secrets
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from unmask.storage.checkpoint import checkpoint_step
from unmask.storage.folders import CHECKPOINT, CONFIG, INDEX, RUN
from unmask.storage.mirror import Mirror, TakenOverError, read_mirror, send, write_mirror
from unmask.storage.remote import filesystem, names_at, names_below
from unmask.storage.run_folder import COPIED, contents
from unmask.training.stopping import unhurried

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
        self.owner = secrets.token_hex(8)
        self.missing: set[str] = set()
        self.over = threading.Event()
        self.over.set()
        self.copies = 0
        self.error: Exception | None = None

    def check(self, step: int, overwrite: bool) -> None:
        """See that the place can be read and written, and that nothing is lost by writing there; take it over.

        Args:
            step: of the checkpoint in the folder; -1: there is none.
            overwrite: whether another run that is there may be replaced. It stays until this one's first checkpoint.

        Raises:
            ValueError: another run is there, or a later checkpoint of this one, or something else.
            FileNotFoundError, ConnectionError, ImportError: see `unmask.storage.remote.naming`.
        """
        self._check_apart()
        there = self._there(overwrite)
        if there is not None and there.step >= 0:
            if self.run not in (there.run, there.next) and not overwrite:
                instead = "another --mirror" if step >= 0 else "--overwrite, or another --mirror"
                raise ValueError(
                    f"{self.url} holds another run, at step {there.step}: give {instead}; to go on with that one, "
                    f"unmask pull {self.url} FOLDER"
                )
            if self.run == there.run and there.step > step:
                behind = f"{self.url} is at step {there.step}, {self.out} at {max(step, 0)}"
                raise ValueError(f"{behind}: bring it here first, with unmask pull {self.url} {self.out}")
            self.missing = there.names - names_below(self.url)
        if there is None or there.step < 0:
            there = Mirror(self.run, unused=there.unused if there else [])
        write_mirror(self.url, replace(there, owner=self.owner, next="" if there.run == self.run else self.run))

    def _check_apart(self) -> None:
        """Raise a ValueError where the copy would be copied with the run."""
        fs, path = filesystem(self.url)
        if "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)):
            here, there = self.out.resolve(), Path(path).resolve()
            if here.is_relative_to(there) or there.is_relative_to(here):
                raise ValueError(f"mirror {self.url}: lies in the run's folder {self.out}, or that in it; name another")

    def _there(self, overwrite: bool) -> Mirror | None:
        try:
            there = read_mirror(self.url)
        except ValueError:
            if not overwrite:
                raise
            return None
        if there is None and (found := {CONFIG, INDEX, RUN} & names_at(self.url)):
            raise ValueError(f"{self.url} holds something else ({min(found)}): give another --mirror")
        return there

    def begin(self, step: int) -> None:
        """Begin to copy the folder as it is now, unless an earlier copy is still under way.

        Args:
            step: of its checkpoint.
        """
        if not self.over.is_set() or isinstance(self.error, TakenOverError):
            return
        if self.error is not None:
            print(f"unmask: warning: {self.error}; training goes on", file=sys.stderr)
        self.error = None
        snapshot = self.out / COPIED / str(self.copies)
        self.copies += 1
        try:
            _take(self.out, snapshot)
        except OSError as error:
            shutil.rmtree(snapshot, ignore_errors=True)
            self.error = error
            return
        self.over.clear()
        threading.Thread(target=self._send, args=(snapshot, step), daemon=True).start()

    def done(self, seconds: float = WAIT) -> bool:
        """Wait for some seconds, and return whether nothing is being copied any more."""
        return self.over.wait(seconds)  # not for the thread: Ctrl-C in its join() would make it seem to have ended

    def finish(self, step: int) -> None:
        """Copy what the run has written last, and wait for it.

        Raises:
            ConnectionError: it cannot be; the run is whole here.
        """
        self._copy_all(step)
        if self.error is not None:
            kept = f"the run is whole in {self.out}; the same command with --resume copies it"
            raise ConnectionError(f"{self.error}; {kept}") from self.error

    def _copy_all(self, step: int, said: str = "") -> None:
        """Wait for a copy that is under way, and make another one, which is the last.

        Args:
            step: of the checkpoint in the folder.
            said: once, where that takes longer than a moment.
        """
        for last in (False, True):
            if last:
                self.error = self.error if isinstance(self.error, TakenOverError) else None  # it is tried once more
                self.begin(step)
            while not self.done():
                if said:
                    print(said, file=sys.stderr, flush=True)
                said = ""

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Where training ends early, wait until the last checkpoint is copied, and what run.json says of the end."""
        try:
            yield
        except BaseException:
            if (self.out / CHECKPOINT).is_file():
                with unhurried():
                    self._wait(checkpoint_step(self.out / CHECKPOINT))
            raise

    def _wait(self, step: int) -> None:
        main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, signal.default_int_handler) if main else None  # lightning ignores it
        try:
            self._copy_all(step, f"the checkpoint is being copied to {self.url}; Ctrl-C leaves it as it is")
            if self.error is not None:
                print(f"unmask: warning: {self.error}", file=sys.stderr)
        except KeyboardInterrupt:
            print(f"unmask: warning: {self.url} is of an earlier checkpoint", file=sys.stderr)
        finally:
            if main:
                signal.signal(signal.SIGINT, before)

    def _send(self, snapshot: Path, step: int) -> None:
        try:
            send(snapshot, self.url, self.run, step, self.owner, self.missing)
            self.missing = set()
        except Exception as error:  # said when it is known whether another one follows
            self.error = error
        finally:
            shutil.rmtree(snapshot, ignore_errors=True)
            with suppress(OSError):
                snapshot.parent.rmdir()
            self.over.set()


def _take(out: Path, place: Path) -> None:
    """Make a folder of the files of a run as they are now; those that are only ever replaced are links."""
    for name in contents(out):
        files = [out / name] if (out / name).is_file() else [one for one in (out / name).rglob("*") if one.is_file()]
        for file in files:
            if not any(part.startswith(".") for part in file.relative_to(out).parts):
                target = place / file.relative_to(out)
                target.parent.mkdir(parents=True, exist_ok=True)
                if file.suffix == ".safetensors":
                    _link(file, target)
                else:
                    shutil.copyfile(file, target)


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # not every file system has links
        shutil.copyfile(file, target)
