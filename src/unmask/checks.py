"""Checks of constructor arguments, and of what a machine has."""

import os
import shutil
from collections.abc import Iterable


def check_whole(least: int, **settings: int | float | None) -> None:
    """Raise a ValueError unless every named setting is None or a whole number of at least `least`."""
    for name, value in settings.items():
        if value is not None and (not isinstance(value, int) or value < least):
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value}")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise a ValueError unless a setting is one of the choices."""
    known = list(choices)
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def check_unicode(text: str, name: str) -> None:
    """Raise a ValueError for half of a surrogate pair, which JSON can hold and no file."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}: not valid Unicode: {error.reason} at character {error.start}") from None


def find_compiler() -> str | None:
    """Return the C++ compiler of this machine, None where there is none."""
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next((name for name in names if name and shutil.which(name)), None)


def check_compiler() -> None:
    """Raise a ValueError if no C++ compiler is here, which `torch.compile` needs."""
    if find_compiler() is None:
        raise ValueError("compile needs a C++ compiler: neither c++, g++ nor clang++ is here; install one, or omit it")


def read_length(text: str) -> int | tuple[int, int]:
    """Return the number that a text says, or the two of a range such as "20-60".

    Raises:
        ValueError: neither of them.
    """
    first, dash, last = text.partition("-")
    if not (first.strip().isdecimal() and (last.strip().isdecimal() if dash else True)):
        raise ValueError(f"a length is a number such as 40, or a range such as 20-60; got {text!r}")
    return (int(first), int(last)) if dash else int(first)
