"""Checkpoints as one safetensors file: tensors as tensors, everything else as JSON beside them. No pickle.

The header holds the SHA-256 of that JSON and of every tensor, which are compared when they are read. Tensors that
several processes hold together are in files of theirs, which the JSON names (`unmask.storage.shards`): the file is
their index then.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unmask.storage.files import replacing
from unmask.storage.shards import Rows, WantedRows, folders_of, read_rows, sweep, tensor_sum

TREE = ""
"""Under this name, which no tensor has, the SHA-256 of all that is no tensor."""


def save_tree(tree: Any, path: Path | str, shards: Mapping[str, Any] | None = None) -> None:
    """Write nested dicts, lists, tuples, tensors and plain values to one file, in one step.

    Args:
        tree: what is written.
        path: of the file.
        shards: where the `Rows` in the tree were written (`unmask.storage.shards.join_shards`).

    Raises:
        TypeError: a value that is none of these; names its place.
        OSError: the file cannot be written; what was there before is kept.
    """
    found: dict[str, Tensor | Rows] = {}
    structure, shards = _flatten(tree, "", found), dict(shards or {})
    tensors = _written({name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)})
    if missing := found.keys() - tensors.keys() - shards.keys():
        raise ValueError(f"{path}: nothing says where the rows of {min(missing)} are")
    sums = {name: tensor_sum(tensor) for name, tensor in tensors.items()} | {TREE: _tree_sum(structure, shards)}
    described = {"tree": structure, "sha256": sums} | ({"shards": shards} if shards else {})
    metadata = {"structure": json.dumps(described)}  # one: their order would be random
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}; the file is as it was before") from error


def find_rows(tree: Any) -> dict[str, Rows]:
    """Return the `Rows` in a tree, by their names."""
    found: dict[str, Tensor | Rows] = {}
    _flatten(tree, "", found)
    return {name: rows for name, rows in found.items() if isinstance(rows, Rows)}


def remove_unused_shards(folder: Path) -> None:
    """Remove the shards beside checkpoints that none of these names: of earlier ones, or of one that was cut off."""
    kept: set[str] = set()
    for path in folder.glob("*.safetensors"):
        kept |= folders_of(_described(path).get("shards") or {})
    sweep(folder, kept)


def load_tree(path: Path | str, device: torch.device | str = "cpu", rows: WantedRows | None = None) -> Any:
    """Read what `save_tree` wrote.

    Args:
        path: of the file.
        device: for the tensors.
        rows: which rows of each tensor are wanted; all if None.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or no checkpoint.
    """
    structure, tensors = _read(path, device, lambda name: True, rows)
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


def _read(
    path: Path | str, device: Any, wanted: Callable[[str], bool], rows: WantedRows | None = None
) -> tuple[Any, dict[str, Tensor]]:
    """Return the structure of a file and the tensors whose names are wanted."""
    described = _described(path)
    structure, sums, shards = (described[name] for name in ("tree", "sha256", "shards"))
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys() if wanted(name)}  # noqa: SIM118
        for name in [name for name in sums if name != TREE and wanted(name)]:
            if sums[name] != tensor_sum(tensors[name]):
                raise ValueError(f"the SHA-256 of {name} is not what it was")
        if rows is not None:
            for name, tensor in tensors.items():
                first, count = rows(name, tuple(tensor.shape)) or (None, None)
                tensors[name] = tensor if first is None or count is None else tensor[first : first + count].clone()
        for name, shard in shards.items():
            if wanted(name):
                here = None if rows is None else rows(name, tuple(shard["shape"]))
                tensors[name] = read_rows(shard, Path(path), here).to(device)
        return structure, tensors
    except FileNotFoundError:
        raise
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise ValueError(f"{path}: damaged, or not a checkpoint of unmask: {error}") from error


def _described(path: Path | str) -> dict[str, Any]:
    """Return what the header of a file says: its "tree", and "sha256" and "shards" of its tensors."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            found = json.loads((file.metadata() or {})["structure"])
        if not isinstance(found, dict) or "tree" not in found:  # written before 0.4
            return {"tree": found, "sha256": {}, "shards": {}}
        described = {"tree": found["tree"], "sha256": found["sha256"], "shards": found.get("shards") or {}}
        if described["sha256"] and described["sha256"].get(TREE) != _tree_sum(found["tree"], described["shards"]):
            raise ValueError("its SHA-256 is not what it was")
        return described
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise ValueError(f"{path}: damaged, or not a checkpoint of unmask: {error}") from error


def _tree_sum(structure: Any, shards: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all that is no tensor."""
    text = json.dumps(structure) + (json.dumps(shards) if shards else "")
    return hashlib.sha256(text.encode()).hexdigest()


def _restored(structure: Any, tensors: dict[str, Tensor], path: Path | str) -> Any:
    try:
        return _restore(structure, tensors)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: damaged, or not a checkpoint of unmask: {error}") from error


def _written(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as a file takes them: on the CPU, contiguous, no two in the same memory.

    Only what is not so is copied, and none of it on its own device, which may have no memory left.
    """
    found: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        here = tensor.detach().cpu().contiguous()
        storage = here.untyped_storage()
        if storage.data_ptr() in storages or storage.nbytes() != here.nbytes:
            here = here.clone()
        storages.add(storage.data_ptr())
        found[name] = here
    return found


def _flatten(value: Any, name: str, tensors: dict[str, Tensor | Rows]) -> Any:
    """Replace what JSON lacks by {"kind": content}: tensors (which are collected by name), tuples and dicts."""
    if isinstance(value, Tensor | Rows):
        tensors[name] = value
        return {"tensor": name}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        keys = [_flatten(key, f"{name}.key", tensors) for key in value]
        items = [[key, _flatten(v, f"{name}.{k}", tensors)] for key, (k, v) in zip(keys, value.items(), strict=True)]
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
