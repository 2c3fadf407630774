"""What is said of an error: one line; and for one that nobody expected, a report with its traceback in a file."""

import os
import platform
import re
import sys
import tempfile
import traceback
from argparse import ArgumentError
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from unmask.storage.folders import cache_folder
from unmask.storage.packages import PACKAGES

EXPECTED = (ImportError, ValueError, OSError, FloatingPointError)
"""What the library raises for what users can fix."""
FROM_WORKER = re.compile(r"\ACaught (\w+) in DataLoader worker.*^(?:\w+\.)*\1(?:: |$)", re.DOTALL | re.MULTILINE)
"""What torch puts before the message of an error in a process that loads data: the traceback there."""
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "std::bad_alloc")


def explain_failure(error: BaseException, command: str) -> tuple[str, int]:
    """Return what to say of an error that ended a command, and the exit status: 1, 2 for wrong usage, 130 or 143."""
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted", getattr(error, "status", 130)  # a signal has another
    if isinstance(error, ArgumentError):
        return error.message, 2
    if isinstance(error, ModuleNotFoundError) and error.name:
        name = error.name.partition(".")[0]
        how = f": pip install 'unmask[{PACKAGES[name][1]}]'" if name in PACKAGES else ""
        return f"{command} needs the package {name!r}, which is not installed{how}", 1
    if isinstance(error, EXPECTED):
        return FROM_WORKER.sub("", str(error)).strip() or type(error).__name__, 1
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


def in_short(message: str, kinds: Mapping[str, str] | None = None) -> str:
    """Say in a few words what jsonargparse says in many of a value that is wrong.

    Args:
        message: of its error.
        kinds: the base class of each option whose value is an object.
    """
    kinds = kinds or {}
    message = re.sub(r"Problem in default config file '[^']*': ", "", " ".join(message.split()))
    keys = re.findall(r'Parser key "([^"]+)"', message)
    where = f"{'.'.join(keys)}: " if keys else ""
    if found := re.search(r"class_path '([^']+)': the following arguments are required: (\w+(?:, \w+)*)", message):
        return f"{where}{found[1].rpartition('.')[2]} needs {found[2]}"
    if found := re.search(r"Importing '([^']+)' is not allowed", message):
        module = found[1].rpartition(".")[0]
        return f"{where}the class {found[1]} is no part of unmask: its module is imported only with --import {module}"
    if keys and keys[0] in kinds and (found := re.search(r"but ([\w.]+) either not accessible", message)):
        return f"{where}there is no class {found[1]!r} that is a {kinds[keys[0]]}"
    if found := re.search(r"(?:Expected a dot import path string|Unexpected import path format): (.{1,60})", message):
        return f"{where}unknown class {found[1]!r}"
    if found := re.search(r"[Oo]ption '([^']+)' is not accepted|does not accept option '([^']+)'", message):
        return f"{where}unknown option {found[1] or found[2]!r}"
    if found := re.search(r"[Uu]nrecognized arguments: (.+)", message):
        if option := re.search(r"(?:^|\s)(-\S+)", found[1]):
            return f"unknown option {option[1]}"
        return f"too many arguments: {found[1]:.60} (a text with spaces needs quotes around it)"
    if found := re.search(r"Not a valid subclass of (\w+)\. Got value: (\S+)", message):
        return f"{where}expected the name of a class derived from {found[1]}, got {found[2]!r}"
    if found := re.search(r"Expected a typing.Literal\[(.+?)\]\. Got value: (\S+)", message):
        return f"{where}expected one of {found[1]}, got {found[2]!r}"
    if found := re.search(r"(?i)class 'float'>.* value: ([+-]?(?:nan|inf|infinity))$", message):
        return f"{where}must be a finite number, got {found[1]!r}"
    if found := re.search(r"Expected an? (.+?)\. Got value: (\S+)", message):
        return f"{where}expected {found[1].removeprefix('<class ').rstrip('>')}, got {found[2]!r}"
    plain = r"<class '\w+'>"
    if found := re.search(rf"Subtypes: \[({plain}(?:, {plain})*)\] Errors: .* Given value: (.{{1,60}})", message):
        names = [repr(name) if name != "NoneType" else "null" for name in re.findall(r"<class '(\w+)'>", found[1])]
        return f"{where}expected {' or '.join(names)}, got {found[2]!r}"
    return message
