"""What is said of an error: one line; and for one that nobody expected, a report with its traceback in a file."""

import os
import platform
import sys
import tempfile
import traceback
from argparse import ArgumentError
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from unmask.storage.folders import cache_folder
from unmask.storage.packages import PACKAGES

EXPECTED = (ImportError, ValueError, OSError, FloatingPointError)
"""What the library raises for what users can fix."""
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "std::bad_alloc")


def explain_failure(error: BaseException, command: str) -> tuple[str, int]:
    """Return what to say of an error that ended a command, and the exit status: 1, 2 for wrong usage, or 130."""
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted", 130
    if isinstance(error, ArgumentError):
        return error.message, 2
    if isinstance(error, ModuleNotFoundError):
        name = (error.name or "").partition(".")[0]
        how = f": pip install 'unmask[{PACKAGES[name][1]}]'" if name in PACKAGES else ""
        return f"{command} needs the package {name!r}, which is not installed{how}", 1
    if isinstance(error, EXPECTED):
        return str(error) or type(error).__name__, 1
    said = (str(error).strip().splitlines() or [""])[0]
    where = write_report(error)
    kept = f"; {where} says where it happened" if where else "; --debug says where it happened"
    if isinstance(error, MemoryError) or any(part in str(error) for part in NO_MEMORY):
        return f"out of memory{': ' if said else ''}{said}; a smaller --batch_size needs less{kept}", 1
    name = type(error).__name__
    return f"unexpected {name}{': ' if said else ''}{said}; this is a bug, or a file that is not what it seems{kept}", 1


def write_report(error: BaseException) -> Path | None:
    """Write the traceback of an error to a file in the cache, or in the folder for temporary files; return its path."""
    head = f"unmask {version('unmask')}, Python {platform.python_version()}, {platform.platform()}\n{sys.argv}\n\n"
    text = head + "".join(traceback.format_exception(error))
    name = f"error-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.txt"
    for folder in (cache_folder() / "reports", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
            return folder / name
        except OSError:
            continue
    return None
