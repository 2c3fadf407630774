"""Checkpoints as one safetensors file: tensors as tensors, everything else as JSON beside them. No pickle.

The header holds the SHA-256 of that JSON and of every tensor, which are compared when they are read.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unmask.storage.files import replacing

TREE = ""
"""Under this name, which no tensor has, the SHA-256 of all that is no tensor."""


def save_tree(tree: Any, path: Path | str) -> None:
    """Write nested dicts, lists, tuples, tensors and plain values to one file, in one step.

    Raises:
        TypeError: a value that is none of these; names its place.
        OSError: the file cannot be written; what was there before is kept.
    """
    tensors: dict[str, Tensor] = {}
    structure = _flatten(tree, "", tensors)
    sums = {name: _sum(tensor) for name, tensor in tensors.items()} | {TREE: _sum(json.dumps(structure))}
    metadata = {"structure": json.dumps({"tree": structure, "sha256": sums})}  # one: their order would be random
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}; the file is as it was before") from error


def load_tree(path: Path | str, device: torch.device | str = "cpu") -> Any:
    """Read what `save_tree` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or no checkpoint.
    """
    structure, tensors = _read(path, device, lambda name: True)
    return _restored(structure, tensors, path)


def averaged_weights(path: Path | str, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], int]:
    """Read the averaged weights of a checkpoint of training, and nothing else of it.

    The averages are what lightning's WeightAveraging stores as "state_dict"; the weights that are trained are in
    "current_model_state" beside it.

    Returns:
        A state_dict for `unmask.MaskedDiffusion`, and the number of steps after which the checkpoint was written.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or no checkpoint of training.
    """
    _, tensors = _read(path, device, lambda name: name.startswith(".state_dict.model."))
    step = checkpoint_step(path)
    weights = {name.removeprefix(".state_dict.model."): tensor for name, tensor in tensors.items()}
    if not weights:
        raise ValueError(f"{path}: not a checkpoint of training: it holds no averaged weights")
    return weights, step


def checkpoint_step(path: Path | str) -> int:
    """Return the number of steps after which a checkpoint of training was written, without reading its tensors."""
    structure, _ = _read(path, "cpu", lambda name: False)
    items = structure.get("dict", []) if isinstance(structure, dict) else []
    step = next((item[1] for item in items if isinstance(item, list) and item[:1] == ["global_step"]), None)
    if not isinstance(step, int):
        raise ValueError(f"{path}: not a checkpoint of training: it has no step")
    return step


def _read(path: Path | str, device: Any, wanted: Callable[[str], bool]) -> tuple[Any, dict[str, Tensor]]:
    """Return the structure of a file and the tensors whose names are wanted."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            structure, sums = json.loads((file.metadata() or {})["structure"]), {}
            if isinstance(structure, dict) and "tree" in structure:  # written by 0.4 and later
                structure, sums = structure["tree"], structure["sha256"]
            if sums and sums.get(TREE) != _sum(json.dumps(structure)):
                raise ValueError("its SHA-256 is not what it was")
            tensors = {name: file.get_tensor(name) for name in file.keys() if wanted(name)}  # noqa: SIM118
        for name in [name for name in sums if name != TREE and wanted(name)]:
            if sums[name] != _sum(tensors[name]):
                raise ValueError(f"the SHA-256 of {name} is not what it was")
        return structure, tensors
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise ValueError(f"{path}: damaged, or not a checkpoint of unmask: {error}") from error


def _sum(content: str | Tensor) -> str:
    """Return the SHA-256 of a text, or of a tensor with its type and shape."""
    if isinstance(content, str):
        return hashlib.sha256(content.encode()).hexdigest()
    digest = hashlib.sha256(f"{content.dtype} {tuple(content.shape)}".encode())
    content = content.detach().cpu().contiguous()
    digest.update(content.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _restored(structure: Any, tensors: dict[str, Tensor], path: Path | str) -> Any:
    try:
        return _restore(structure, tensors)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
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
