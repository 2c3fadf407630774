"""Descriptions of objects in the form that settings have: {"class_path": name, "init_args": {...}}."""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from unmask.storage.folders import CONFIG, RUN, TOKENIZER, find_folder
from unmask.storage.objects import read_object
from unmask.storage.signatures import choices_of


def trained_with(path: str | None) -> dict[str, Any] | None:
    """Return the settings of the data that a model was trained with; None where its folder does not say."""
    folder = find_folder(path) if path else None
    described = {}
    for name, *keys in ((CONFIG, "about", "data"), (RUN, "data")):
        if folder is not None and (folder / name).is_file():
            try:
                described = read_object(folder / name)
                for key in keys:
                    described = described.get(key) or {}
            except (OSError, ValueError, AttributeError):
                described = {}  # an error belongs to whoever loads the model
            break
    described = with_own_tokenizer(described, folder)
    name = str(described.get("class", "")) if isinstance(described, dict) else ""
    return as_setting(described) if name in choices_of("data") or "." in name else None


def with_own_tokenizer(described: Any, folder: Path | None) -> Any:
    """Return the description of a model's data; the copy in the model's folder replaces a tokenizer that is gone.

    Args:
        described: by `unmask.storage.description.describe`.
        folder: of the model, or of a run; None: it is not known.
    """
    name = described.get("tokenizer") if isinstance(described, dict) else None
    if folder is None or not isinstance(name, str) or Path(name).exists() or not (folder / TOKENIZER).is_file():
        return described
    return described | {"tokenizer": str(folder.resolve())}


def as_setting(described: Any, left_out: Collection[str] = (), prefix: str = "") -> Any:
    """Turn the description of an object (`unmask.storage.description`) into the form that settings have.

    Arguments whose dotted names are in `left_out` are not settings: the data decide them.
    """
    if not isinstance(described, dict) or not isinstance(described.get("class"), str):
        return described
    arguments = {
        name: as_setting(value, left_out, f"{prefix}{name}.")
        for name, value in described.items()
        if name != "class" and f"{prefix}{name}" not in left_out
    }
    return {"class_path": described["class"], "init_args": arguments}


def run_settings(folder: Path, left_out: Collection[str] = ()) -> dict[str, Any]:
    """Return the settings that a run was started with, as they would stand in a file; `left_out`: see `as_setting`.

    Raises:
        ValueError: the run's record is damaged; names the file.
    """
    path = folder / RUN
    record = read_object(path)
    try:
        tree: dict[str, Any] = {**record["run"], "out": str(folder)}
        tree.pop("mirror", None)  # a file asks for no copy
        for group in ("optimizer", "trainer"):
            tree[group] = {name: value for name, value in record[group].items() if name != "class"}
        if record.get("start"):
            tree["from"] = record["start"]["name"]
        record["data"] = with_own_tokenizer(record["data"], folder)
        return tree | {
            name: as_setting(record[name], left_out, f"{name}.") for name in ("data", "network", "objective")
        }
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{path}: is empty or damaged") from None


def as_arguments(
    tree: Mapping[str, Any], choices: Collection[str], plain: Collection[str], prefix: str = ""
) -> list[str]:
    """Write the settings of a file as options of a command line."""
    found = []
    for name, value in tree.items():
        option = f"{prefix}{name}"
        if isinstance(value, dict) and option not in choices and option not in plain:
            found += as_arguments(value, choices, plain, f"{option}.")
        else:
            found.append(f"--{option}={value if isinstance(value, str) else json.dumps(value, default=str)}")
    return found


def read_numbers(text: str | None, name: str, kind: Callable[[str], Any], what: str) -> list[Any]:
    """Read positive numbers with commas between them; none if there is no text.

    Args:
        text: the setting.
        name: its name, for the error.
        kind: reads one number.
        what: they must be, for the error.

    Raises:
        ValueError: something else, or a number that is not positive.
    """
    try:
        found = [kind(part.strip()) for part in text.split(",")] if text else []
        if not all(value > 0 for value in found):
            raise ValueError
    except ValueError:
        raise ValueError(f"{name} must be {what} with commas between them, got {text!r}") from None
    return found
