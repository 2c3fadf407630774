"""Tensors that several processes hold together: each writes its rows to a file of its own.

An index (`unmask.storage.checkpoint.save_tree`) names the files, which lie in a folder beside it, and what rows of what
tensor each holds, with their SHA-256. Nothing refers to the files until the index takes the place of the one before, in
one step; so whatever is killed or fails before that leaves the last checkpoint as it was.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unmask.storage.files import replacing

FOLDER = re.compile(r"shards-\d+-\w+")
"""Names of folders of shards."""


@dataclass(frozen=True)
class Rows:
    """Some rows of a tensor that several processes hold together.

    Args:
        tensor: the rows that are here; perhaps none.
        first: number of the first of them.
        shape: of the whole tensor.
        written: whether this process writes them; another one with the same rows does otherwise.
    """

    tensor: Tensor
    first: int
    shape: tuple[int, ...]
    written: bool = True


WantedRows = Callable[[str, tuple[int, ...]], tuple[int, int] | None]
"""Which rows of a tensor of some name and shape are wanted: the first and how many; None: all."""


def write_shard(rows: Mapping[str, Rows], path: Path) -> dict[str, Any]:
    """Write the rows that a process has, and return what the index is to say of them.

    Raises:
        OSError: the file cannot be written; it is not there then.
    """
    own, called = dict[str, Tensor](), dict[str, str]()
    first: dict[Any, str] = {}
    for name, part in rows.items():
        if (
            part.written and part.tensor.shape[0] > 0
        ):  # what is two tensors at once, such as frozen weights, is one here
            called[name] = first.setdefault((part.tensor.data_ptr(), part.tensor.shape, part.tensor.dtype), name)
            if called[name] == name:
                own[name] = part.tensor.detach().cpu().contiguous()
    sums = {name: tensor_sum(tensor) for name, tensor in own.items()}
    try:
        with replacing(path) as temporary:
            save_file(own, temporary)
    except (SafetensorError, OSError) as error:
        raise OSError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    file = f"{path.parent.name}/{path.name}"
    return {
        name: {"file": file, "name": there, "first": rows[name].first, "count": len(own[there]), "sha256": sums[there]}
        for name, there in called.items()
    }


def join_shards(rows: Mapping[str, Rows], described: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what an index says of every tensor, from what `write_shard` returned in each process.

    Raises:
        ValueError: rows of a tensor are missing.
    """
    shards = {}
    for name, part in rows.items():
        pieces = sorted((one[name] for one in described if name in one), key=lambda piece: piece["first"])
        if sum(piece["count"] for piece in pieces) != part.shape[0]:
            raise ValueError(f"{name}: not every row of it was written")
        dtype = str(part.tensor.dtype).removeprefix("torch.")
        shards[name] = {"shape": list(part.shape), "dtype": dtype, "pieces": pieces}
    return shards


def read_rows(shard: dict[str, Any], index: Path, wanted: tuple[int, int] | None) -> Tensor:
    """Read some rows of a tensor, or all of it.

    Args:
        shard: what the index says of it.
        index: its path.
        wanted: the first row and how many.

    Raises:
        FileNotFoundError: a file is missing; names it.
        ValueError: one is damaged, or the index.
    """
    shape = [int(size) for size in shard["shape"]]
    first, count = wanted or (0, shape[0])
    found = torch.empty(count, *shape[1:], dtype=getattr(torch, str(shard["dtype"])))
    filled = 0
    for piece in shard["pieces"]:
        start, stop = max(first, piece["first"]), min(first + count, piece["first"] + piece["count"])
        if start < stop:
            tensor = _read_piece(piece, index)
            found[start - first : stop - first] = tensor[start - piece["first"] : stop - piece["first"]]
            filled += stop - start
    if filled != count:
        raise ValueError(f"{index}: rows are missing")
    return found


def sweep(folder: Path, kept: set[str]) -> None:
    """Remove the folders of shards that no index names."""
    for entry in folder.iterdir():
        if FOLDER.fullmatch(entry.name) and entry.name not in kept and entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)


def folders_of(shards: Mapping[str, Any]) -> set[str]:
    """Return the names of the folders that an index names."""
    return {str(piece["file"]).partition("/")[0] for shard in shards.values() for piece in shard["pieces"]}


def _read_piece(piece: dict[str, Any], index: Path) -> Tensor:
    folder, _, name = str(piece["file"]).partition("/")
    if not FOLDER.fullmatch(folder) or not re.fullmatch(r"\d+\.safetensors", name):
        raise ValueError(f"{index}: {piece['file']!r:.100} is no name of a shard")
    path = index.parent / folder / name
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {index} needs it: a shard of the checkpoint is missing here")
    try:
        with safe_open(path, framework="pt") as file:
            tensor = file.get_tensor(piece["name"])
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged: {error}") from error
    if tensor_sum(tensor) != piece["sha256"]:
        raise ValueError(f"{path}: the SHA-256 of {piece['name']} is not what it was")
    return tensor


def tensor_sum(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor with its type and shape, in hexadecimal."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
