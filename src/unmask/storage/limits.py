"""How much a file may unpack to: a small one can hold what no memory does."""

import os
from pathlib import Path

MOST = "UNMASK_MOST_BYTES"
"""The variable of the environment that sets the limit."""
DEFAULT = 4 << 30


def check_size(size: int, path: Path | str, most: int | None = None) -> None:
    """Raise a ValueError for a file that holds more than `most` bytes, 4 GiB if None; UNMASK_MOST_BYTES raises it."""
    given = os.environ.get(MOST, "")
    most = int(given) if given.isdecimal() else most or DEFAULT
    if size > most:
        raise ValueError(f"{path}: holds {size:,} bytes, more than the {most:,} that are read; {MOST}={size} allows it")
