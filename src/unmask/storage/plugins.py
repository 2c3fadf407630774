"""Classes from outside the package: imported when the user names their module, never because a file does."""

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

GROUP = "unmask.plugins"
"""Group of entry points by which an installed package says which of its modules hold classes for unmask."""


def import_named(names: Iterable[str]) -> list[str]:
    """Import modules that the user named; return their names.

    Args:
        names: of each the dotted name of a module, found on Python's path or in the current folder, or the path of a
            .py file, whose module is called as the file is.

    Raises:
        ImportError: there is no such module, or it fails when it is imported; in one line.
    """
    return [_import(name).__name__ for name in ([names] if isinstance(names, str) else names)]


def _import(name: str) -> ModuleType:
    path = Path(name)
    is_file = path.suffix == ".py" or "/" in name
    if is_file and not path.is_file():
        raise ImportError(f"--import {name}: no such file")
    module = path.stem if is_file else name
    if not all(part.isidentifier() for part in module.split(".")):
        raise ImportError(f"--import {name}: not the name of a module or of a .py file")
    folder = str(path.resolve().parent) if is_file else str(Path.cwd())
    added = folder not in sys.path
    if added:
        sys.path.append(folder)  # stays: worker processes and what the module imports later need it
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # what a user's module may raise
        if added:
            sys.path.remove(folder)
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, ModuleNotFoundError) and error.name and module.startswith(error.name):
            raise ImportError(
                f"--import {name}: there is no module {error.name!r} on the path or in {folder}"
            ) from None
        raise ImportError(f"--import {name}: the module fails: {type(error).__name__}: {reason}") from error
    if is_file and Path(found.__file__ or "").resolve() != path.resolve():
        raise ImportError(f"--import {name}: another module {module!r} is there already, from {found.__file__}")
    return found


def import_installed(module: str | None = None) -> bool:
    """Import the modules that installed packages declare as plug-ins.

    Args:
        module: only where this module is declared, or one that it lies in; None: all that are declared.

    Returns:
        whether there was one.
    """
    found = False
    for point in entry_points(group=GROUP):
        if module is None or module == point.module or module.startswith(f"{point.module}."):
            importlib.import_module(module or point.module)
            found = True
    return found


def installed_modules() -> list[str]:
    """Return the modules that installed packages declare as plug-ins."""
    return [point.module for point in entry_points(group=GROUP)]


def is_trusted(module: str, trust: Iterable[str]) -> bool:
    """Return whether a module is one of those that are trusted, or lies in one."""
    return any(module == name or module.startswith(f"{name}.") for name in trust)
