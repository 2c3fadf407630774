"""Integer arrays of the user's own, of any shape."""

import zipfile
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from unmask.codecs.base import Codec
from unmask.codecs.pixels import Pixels
from unmask.codecs.symbols import Symbols
from unmask.data.base import DataSet, Examples, Part, Split, shuffled_parts


@dataclass(frozen=True)
class Arrays(DataSet):
    """Tokens from a .npy file (examples, *dims), which is memory-mapped, or from a .npz file.

    The .npz holds `x` and, if there are classes, `labels`; or, already split, `train`, `valid` and `test` with
    `train_labels` and so on. An unsplit array is split at random, always in the same way, into 90, 5 and 5 %.

    Args:
        path: the file; integers 0..vocab_size-1.
        labels_path: a .npy file of integer labels (examples,), for a `path` without.
        vocab_size: V; one more than the largest value if None.
        images: whether the examples are images (height, width, channels), to be shown as such.
    """

    path: str
    labels_path: str | None = None
    vocab_size: int | None = None
    images: bool = False

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("no arrays were named: give --data.path FILE.npy")

    @cached_property
    def _parts(self) -> dict[str, Examples]:
        arrays = _load(Path(self.path))
        if self.labels_path is not None:
            if "labels" in arrays or "train" in arrays:
                raise ValueError(f"labels_path is for a file without labels or parts of its own, not for {self.path}")
            arrays["labels"] = _load(Path(self.labels_path))["x"]
        if "train" in arrays:
            parts = {part: Examples(*self._pair(arrays, part, f"{part}_labels")) for part in ("train", "valid", "test")}
            if len({part.x.shape[1:] for part in parts.values()}) > 1:
                raise ValueError(f"{self.path}: train, valid and test have examples of different shapes")
            return parts
        x, labels = self._pair(arrays, "x", "labels")
        if len(x) < 20:
            raise ValueError(f"{self.path}: at least 20 examples are needed for three parts, got {len(x)}")
        chosen = shuffled_parts(len(x), valid=len(x) // 20, test=len(x) // 20)
        return {part: Examples(x, labels, indices) for part, indices in chosen.items()}

    def _pair(self, arrays: dict[str, np.ndarray], key: str, labels_key: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Return checked tokens and labels."""
        if key not in arrays:
            raise ValueError(f"{self.path}: no array named {key!r}, only {', '.join(sorted(arrays))}")
        x, labels = arrays[key], arrays.get(labels_key)
        _check_integers(x, f"{self.path}: {key}", self.vocab_size)
        if x.ndim < 2:
            raise ValueError(f"{self.path}: {key} must have the shape (examples, *dims), got {x.shape}")
        if self.images and x.ndim != 4:
            raise ValueError(
                f"{self.path}: images must have the shape (examples, height, width, channels), got {x.shape}"
            )
        if labels is not None:
            _check_integers(labels, f"{self.path}: {labels_key}", None)
            if labels.shape != x.shape[:1]:
                raise ValueError(f"{self.path}: {labels_key} must have the shape ({len(x)},), got {labels.shape}")
        return x, labels

    @property
    def name(self) -> str:
        return Path(self.path).resolve().name

    @cached_property
    def codec(self) -> Codec:
        count = self.vocab_size or 1 + max(int(part.x.max()) for part in self._parts.values())
        return Pixels(max(count, 2)) if self.images else Symbols(count)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._parts["train"].x.shape[1:]

    @cached_property
    def classes(self) -> int | None:
        labels = [part.labels for part in self._parts.values()]
        if any(part is None for part in labels):
            return None
        return 1 + max(int(part.max()) for part in labels if part is not None)

    def split(self, part: Part) -> Split:
        return self._parts[part]

    def resolved(self) -> "Arrays":
        return replace(self, vocab_size=self.codec.vocab_size)


def _load(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a .npy (called x) or .npz file. Nothing is unpickled."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix not in (".npy", ".npz"):
        raise ValueError(f"{path}: expected a .npy or .npz file")
    try:
        if path.suffix == ".npy":
            return {"x": np.load(path, mmap_mode="r", allow_pickle=False)}
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged, or not plain arrays: {error}") from error


def _check_integers(array: np.ndarray, what: str, count: int | None) -> None:
    """Raise a ValueError unless the values are integers in 0..count-1."""
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{what} must be integers, got dtype {array.dtype}")
    if not array.size:
        raise ValueError(f"{what} is empty")
    low, high = int(array.min()), int(array.max())
    if low < 0 or (count is not None and high >= count):
        wrong = np.unravel_index(int(array.argmin() if low < 0 else array.argmax()), array.shape)
        bound = "" if count is None else f" and below vocab_size={count}"
        raise ValueError(f"{what} must be at least 0{bound}, got {array[wrong]} at index {[int(i) for i in wrong]}")
