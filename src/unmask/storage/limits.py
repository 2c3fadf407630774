"""How much a file may unpack to: a small one can hold what no memory does."""

import os
from pathlib import Path

MOST = "UNMASK_MOST_BYTES"
"""The variable of the environment that sets the limit."""
DEFAULT = 4 << 30
MOST_ROW = 256 << 20
"""Bytes of a row of a file, which is held as a whole."""
LARGEST = 1 << 62


def limit(most: int = DEFAULT) -> int:
    """Return how many bytes may be held: `most`, or what UNMASK_MOST_BYTES says."""
    given = os.environ.get(MOST, "")
    return min(int(given), LARGEST) if given.isdecimal() else most


def check_size(size: int, path: Path | str, most: int = DEFAULT) -> None:
    """Raise a ValueError for a file that holds more than `most` bytes; UNMASK_MOST_BYTES raises it."""
    if size > limit(most):
        raise ValueError(
            f"{path}: holds {size:,} bytes, more than the {limit(most):,} that are read; {MOST}={size} allows it"
        )


def too_long(what: str, most: int) -> ValueError:
    """Return the error for a part of a file that is longer than `most` bytes, nobody knows by how much."""
    return ValueError(f"{what}: longer than the {most:,} bytes that are read at once; {MOST}={2 * most} allows more")
