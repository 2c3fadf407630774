"""Checks of constructor arguments."""

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
