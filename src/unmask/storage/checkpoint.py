"""Checkpoints as one safetensors file: tensors as tensors, everything else as JSON beside them. No pickle."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unmask.storage.files import replacing


def save_tree(tree: Any, path: Path | str) -> None:
    """Write nested dicts, lists, tuples, tensors and plain values to one file, in one step (`unmask.files.replacing`).

    Raises:
        TypeError: a value that is none of these; names its place.
        OSError: the file cannot be written; what was there before is kept.
    """
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_flatten(tree, "", tensors))
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"structure": structure})
        except SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}; the file is as it was before") from error


def load_tree(path: Path | str, device: torch.device | str = "cpu") -> Any:
    """Read what `save_tree` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or no checkpoint.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            structure = json.loads((file.metadata() or {})["structure"])
            return _restore(structure, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: damaged, or not a checkpoint of unmask: {error}") from error


def _flatten(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Replace what JSON lacks by {"kind": content}: tensors (which are collected by name), tuples and dicts."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().contiguous().clone()
        return {"tensor": name}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        items = [[_flatten(k, f"{name}.key", tensors), _flatten(v, f"{name}.{k}", tensors)] for k, v in value.items()]
        return {"dict": items}
    if isinstance(value, list | tuple):
        items = [_flatten(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    raise TypeError(f"{name}: a {type(value).__name__} cannot be written to a checkpoint")


def _restore(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_restore(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(_restore(item, tensors) for item in content)
    return {_restore(k, tensors): _restore(v, tensors) for k, v in content}


def averaged_weights(path: Path | str) -> tuple[dict[str, Tensor], int]:
    """Return the averaged weights of a run's checkpoint, under the names that the model has, and the step they are of.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or no checkpoint of a run; names it.
    """
    tree = load_tree(path)
    try:
        weights = {name.removeprefix("model."): value for name, value in tree["state_dict"].items()}
        return weights, int(tree["global_step"])
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ValueError(f"{path}: not a checkpoint of a run") from None
