"""Reading .npy and .npz files: plain arrays alone, and none that is larger than its file says."""

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from unmask.storage.limits import check_size

ERRORS: tuple[type[Exception], ...] = (ValueError, OSError, EOFError, OverflowError, MemoryError, TypeError, KeyError)
ERRORS += (SyntaxError, RuntimeError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error)
"""What numpy and zipfile raise for files that are damaged or crafted."""


def map_array(path: Path) -> np.ndarray:
    """Map the array of a .npy file into memory. Nothing is unpickled.

    Raises:
        ValueError: it is damaged or no plain array; names the file.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(found, np.ndarray):
            raise ValueError("expected one array, got an archive of several")
        return found
    except ERRORS as error:
        raise _damaged(path, error) from None


def read_arrays(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Read the arrays of a .npz file. Nothing is unpickled.

    Args:
        path: of the file.
        names: of the arrays that are wanted, where they are there; all if None.

    Raises:
        ValueError: it is damaged, holds something else, or more than the limit (`unmask.storage.limits`).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            members = {name: info for name, info in members.items() if names is None or name in names}
            check_size(sum(info.file_size for info in members.values()), path)
            return {name: _read(archive, info) for name, info in members.items()}
    except ERRORS as error:
        raise _damaged(path, error) from None


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """Read an array of an archive, once its header says no more than there is."""
    if not info.filename.endswith(".npy"):
        raise ValueError(f"{info.filename} in it is no array")
    with archive.open(info) as file:
        readers: dict[Any, Any] = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        version = np.lib.format.read_magic(file)
        if version not in readers:
            raise ValueError(f"{info.filename} in it is of an unknown version, {version}")
        shape, _, dtype = readers[version](file)
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > info.file_size:
            raise ValueError(f"{info.filename} in it is shorter than its header says, {dtype} {shape}")
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _damaged(path: Path, error: BaseException) -> ValueError:
    said = " ".join(str(error).split()) or type(error).__name__
    return ValueError(said if said.startswith(str(path)) else f"{path}: damaged, or not plain arrays: {said}")
