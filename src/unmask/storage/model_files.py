"""The files of a model's folder: config.json, which describes it, and its weights."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from unmask.storage.folders import CONFIG, WEIGHTS


def config_digest(description: dict[str, Any]) -> str:
    """Return the SHA-256 of a description, in hexadecimal."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def read_config(path: Path) -> dict[str, Any]:
    """Read config.json.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, or facts of a wrong form; names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a model's folder holds {CONFIG} and {WEIGHTS}")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(description, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(description).__name__}")
    about = description.get("about", {})
    if not isinstance(about, dict) or not all(isinstance(about.get(name, {}), dict) for name in ("data", "run")):
        raise ValueError(f"{path}: about, about.data and about.run must be JSON objects")
    if not isinstance(about.get("measured", []), list):
        raise ValueError(f"{path}: about.measured must be a list of reports")
    names = about.get("class_names") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: about.class_names must be a list of names")
    return description


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors of a model, and the metadata beside them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged; names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a model's folder holds {CONFIG} and {WEIGHTS}")
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
            return weights, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged or truncated safetensors file: {error}") from error
