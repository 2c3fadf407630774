"""The configurations that come with the package: one complete YAML file for each experiment."""

from argparse import ArgumentError
from pathlib import Path

from unmask.storage.folders import RUN
from unmask.storage.signatures import nearest


def shipped() -> dict[str, Path]:
    """Return the configurations that come with the package, by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))}


def find_config(name: str) -> Path:
    """Return the file of a shipped configuration, a path to one's own, or the folder of a run.

    Raises:
        ArgumentError: none of these; suggests the nearest shipped name.
    """
    if name in shipped():
        return shipped()[name]
    if Path(name).is_file() or Path(name, RUN).is_file():
        return Path(name)
    if Path(name).is_dir():
        raise ArgumentError(None, f"{name}: a folder without {RUN}: neither a run to go on with nor a configuration")
    known = f"{nearest(name, shipped())}; shipped are {', '.join(shipped())}; or give a file"
    raise ArgumentError(None, f"no configuration {name!r}{known}")
