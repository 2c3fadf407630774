"""Runs that a scheduler has started again. Light: the command line asks before it imports anything."""

import os
from contextlib import suppress
from pathlib import Path

from unmask.storage.folders import CHECKPOINT, RUN
from unmask.storage.remote import fetch_tree, folders_in

RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
"""In which torchrun (`--max-restarts`) and SLURM say how often they have started the same command again."""


def restarted() -> bool:
    """Return whether this is not the first start of the command."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in RESTARTS)


def how_to_begin(out: Path | str, resume: bool, overwrite: bool, mirror: str | None = None) -> tuple[bool, bool]:
    """Return whether to go on with a run, and whether to replace it: as asked for, unless this is another start of it.

    Then it goes on by itself from its last checkpoint or, if there was none yet, begins again. Where it is to go on,
    and is not in its folder, its copy elsewhere (`Run.mirror`) is copied there.

    Raises:
        FileNotFoundError, ConnectionError, ImportError: see `unmask.storage.remote.naming`.
    """
    if mirror and (resume or restarted()) and not Path(out, RUN).is_file():
        _bring_back(Path(out), mirror)
    if not restarted():
        return resume, overwrite
    begun = Path(out, CHECKPOINT).is_file()
    return begun, not begun


def _bring_back(out: Path, url: str) -> None:
    """Copy a run from elsewhere into its folder, if it is there; of several processes the first does it."""
    from filelock import FileLock

    out.mkdir(parents=True, exist_ok=True)
    lock = out / ".fetching"
    with FileLock(lock), suppress(FileNotFoundError):  # nothing has been copied there yet
        if not (out / RUN).is_file() and RUN in folders_in(url):
            fetch_tree(url, out, last=RUN)
    lock.unlink(missing_ok=True)
    with suppress(OSError):
        out.rmdir()  # if it is empty
