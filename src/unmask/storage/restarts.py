"""Runs that a scheduler has started again. Light: the command line asks before it imports anything."""

import os
from pathlib import Path

from unmask.storage.folders import CHECKPOINT

RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
"""In which torchrun (`--max-restarts`) and SLURM say how often they have started the same command again."""


def restarted() -> bool:
    """Return whether this is not the first start of the command."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in RESTARTS)


def how_to_begin(out: Path | str, resume: bool, overwrite: bool) -> tuple[bool, bool]:
    """Return whether to go on with a run, and whether to replace it: as asked for, unless this is another start of it.

    Then it goes on by itself from its last checkpoint or, if there was none yet, begins again.
    """
    if not restarted():
        return resume, overwrite
    begun = Path(out, CHECKPOINT).is_file()
    return begun, not begun
