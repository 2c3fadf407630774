"""Reading the files of a checkpoint: JSON and tensors alone, no code."""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unmask.storage.objects import read_object
from unmask.storage.remote import is_file_name

CONFIG = "config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = tuple(f"{name}.index.json" for name in WEIGHT_FILES)
"""Of weights in several files, which they name."""


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of config.json; raise an error that names it where it is missing or damaged."""
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return read_object(path)


def read_weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """Return the file of the weights, or the index of their files, and the tensors by name.

    They are mapped into memory, not copied.

    Args:
        folder: that holds the file; or the file itself.

    Raises:
        FileNotFoundError: there is no such file, or one that an index names is missing.
        ValueError: it is damaged, or holds more than tensors.
    """
    if folder.is_file():
        return folder, read_tensors(folder)
    path = next((folder / name for name in (*WEIGHT_FILES, *INDEX_FILES) if (folder / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder}: holds neither {' nor '.join((*WEIGHT_FILES, *INDEX_FILES))}")
    if path.name in WEIGHT_FILES:
        return path, read_tensors(path)
    places = read_object(path).get("weight_map")
    if not isinstance(places, dict) or not all(map(is_file_name, places.values())):
        raise ValueError(f"{path}: expected weight_map, the name of a file beside it for each tensor")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file, but {path.name} names it")
        tensors |= read_tensors(folder / name)
    if missing := sorted(places.keys() - tensors.keys()):
        raise ValueError(f"{folder / places[missing[0]]}: lacks the tensor {missing[0]}, which {path.name} names")
    return path, tensors


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one file.

    Raises:
        ValueError: it is damaged, or holds more than tensors, or others than plain ones.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=_can_be_mapped(path))
    except pickle.UnpicklingError:
        raise ValueError(f"{path}: damaged, or holds more than tensors, which could run code; it is not read") from None
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: damaged, or holds more than tensors: {why}") from None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{path}: expected tensors by name; a checkpoint of a trainer must be converted to that first")
    for name, value in weights.items():
        if value.layout is not torch.strided or value.is_meta or value.is_quantized:
            raise ValueError(f"{path}: the tensor {name} is sparse, quantised or without values")
    return weights


def _can_be_mapped(path: Path) -> bool:
    """Return whether a file of torch is of the newer kind, a zip archive."""
    with open(path, "rb") as file:
        return file.read(2) == b"PK"
