"""Integer arrays of the user's own, of any shape."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from unmask.codecs.base import Codec
from unmask.codecs.pixels import Pixels
from unmask.codecs.symbols import Symbols
from unmask.data.base import MOST_CLASSES, MOST_TOKENS, DataSet, Joined, Part, Split, shuffled_parts
from unmask.data.conditioned import Conditioned, check_example_lengths, check_given
from unmask.data.reading import check_file
from unmask.lengths import Lengths
from unmask.storage.arrays import map_array, read_arrays

BESIDE = ("labels", "given", "lengths")
"""What there may be for each example beside its tokens."""
PARTS = ("train", "valid", "test")
MOST_COMPARED = 1 << 20


@dataclass(frozen=True)
class Arrays(DataSet):
    """Tokens from a .npy file (examples, *dims), which is memory-mapped, or from a .npz file.

    The .npz holds `x` and, if there are classes, `labels`; or, already split, some of `train`, `valid` and `test`, with
    `train_labels` and so on: a file with `test` alone is a test set. An unsplit array is split at random, always in the
    same way, into 90, 5 and 5 %; a warning says where examples of one part are in another, too. Another names arrays
    that are not read.

    Beside `x` there may be `given`, of the same shape and bool: tokens that are conditioned on, never masked and not
    counted. For examples of one dimension there may be `lengths` (examples,): what lies beyond the length of an example
    is not read, but filled up with a token of its own, one more than the data have, which is given; the model holds the
    distribution of lengths.

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
        if self.vocab_size is not None and not 1 <= self.vocab_size <= MOST_TOKENS:
            raise ValueError(f"vocab_size must be in 1..{MOST_TOKENS:,}, got {self.vocab_size:,}")

    @cached_property
    def _arrays(self) -> dict[str, Conditioned]:
        """The examples of each part that the file names; of one that names none, all under the name x."""
        arrays = _load(Path(self.path))
        if self.labels_path is not None:
            if {"labels", *PARTS} & arrays.keys():
                raise ValueError(f"labels_path is for a file without labels or parts of its own, not for {self.path}")
            arrays["labels"] = _load(Path(self.labels_path))["x"]
        named = [part for part in PARTS if part in arrays]
        parts = {part: self._read(arrays, part, f"{part}_") for part in named} or {"x": self._read(arrays, "x", "")}
        if len({part.x.shape[1:] for part in parts.values()}) > 1:
            raise ValueError(f"{self.path}: {', '.join(named)} have examples of different shapes")
        for name in ("labels", "lengths"):
            if len({getattr(part, name) is None for part in parts.values()}) > 1:
                raise ValueError(f"{self.path}: some of {', '.join(named)} have {name}, and some have none")
        known = {name for part in named for name in (part, *(f"{part}_{one}" for one in BESIDE))} or {"x", *BESIDE}
        if unread := ", ".join(sorted(arrays.keys() - known)):
            warnings.warn(
                f"{self.path}: {unread[:200]} not read; the names known here are {', '.join(sorted(known))}",
                stacklevel=2,
            )
        return parts

    @cached_property
    def _parts(self) -> dict[str, Split]:
        for one in self._arrays.values():
            one.fill = self._symbols
        if "x" not in self._arrays:
            return {**self._arrays, "all": Joined(list(self._arrays.values()))}
        whole = self._arrays["x"]
        if len(whole) < 20:
            return dict[str, Split](all=whole)
        chosen = shuffled_parts(len(whole), valid=len(whole) // 20, test=len(whole) // 20)
        if found := repeated(whole.x, chosen):
            warnings.warn(f"{self.path}: {found}; give the file as train, valid and test of its own", stacklevel=2)
        return {"all": whole, **{part: whole.some(indices) for part, indices in chosen.items()}}

    def _read(self, arrays: dict[str, np.ndarray], key: str, prefix: str) -> Conditioned:
        """Return checked examples.

        Args:
            arrays: of the file.
            key: of the tokens.
            prefix: of the names of what belongs to them.
        """
        if key not in arrays:
            raise ValueError(f"{self.path}: no array named {key!r}, only {', '.join(sorted(arrays))}")
        x, (labels, given, lengths) = arrays[key], (arrays.get(f"{prefix}{one}") for one in BESIDE)
        if x.ndim < 2:
            raise ValueError(f"{self.path}: {key} must have the shape (examples, *dims), got {x.shape}")
        if lengths is not None:
            check_example_lengths(lengths, x, f"{self.path}: {prefix}lengths", key)
            x = np.where(np.arange(x.shape[1]) < lengths[:, None], x, 0 if np.issubdtype(x.dtype, np.integer) else x)
        _check_integers(x, f"{self.path}: {key}", self.vocab_size, MOST_TOKENS)
        if self.images and x.ndim != 4:
            raise ValueError(
                f"{self.path}: images must have the shape (examples, height, width, channels), got {x.shape}"
            )
        if labels is not None:
            _check_integers(labels, f"{self.path}: {prefix}labels", None, MOST_CLASSES)
            if labels.shape != x.shape[:1]:
                raise ValueError(f"{self.path}: {prefix}labels must have the shape ({len(x)},), got {labels.shape}")
        if given is not None:
            check_given(given, x, lengths, f"{self.path}: {prefix}given", key)
        return Conditioned(x, labels, None, given, lengths)

    @property
    def name(self) -> str:
        return Path(self.path).resolve().name

    @property
    def _examples(self) -> list[Conditioned]:
        """The arrays that there are."""
        return list(self._arrays.values())

    @cached_property
    def _symbols(self) -> int:
        """Number of token values of the data."""
        return self.vocab_size or 1 + max(int(part.x.max()) for part in self._examples)

    @cached_property
    def codec(self) -> Codec:
        if self.images:
            return Pixels(max(self._symbols, 2))
        return Symbols(self._symbols + (self._examples[0].lengths is not None))

    @cached_property
    def has_given(self) -> bool:
        return any(part.given is not None or part.lengths is not None for part in self._examples)

    @cached_property
    def lengths(self) -> Lengths | None:
        train = self._parts.get("train")
        if not isinstance(train, Conditioned) or train.lengths is None:
            return None
        n, labels = train.lengths[train.chosen], None if train.labels is None else train.labels[train.chosen]
        return Lengths.of(n, self.shape[0], self._symbols, labels=labels, classes=self.classes, apart=True)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._examples[0].x.shape[1:]

    @cached_property
    def classes(self) -> int | None:
        labels = [part.labels for part in self._examples]
        if any(part is None for part in labels):
            return None
        return 1 + max(int(part.max()) for part in labels if part is not None)

    def split(self, part: Part) -> Split:
        if part in self._parts:
            return self._parts[part]
        named = [name for name in self._parts if name != "all"]
        if named:
            raise ValueError(f"{self.path}: no array named {part!r}, only {', '.join(named)}; the part all is there")
        count = len(self._parts["all"])
        raise ValueError(
            f"{self.path}: at least 20 examples are needed for three parts, got {count}; the part all is there"
        )

    def resolved(self) -> "Arrays":
        return replace(self, vocab_size=self.codec.vocab_size - (self._examples[0].lengths is not None))


def _load(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a .npy (called x) or .npz file. Nothing is unpickled."""
    check_file(path)
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz"):
        raise ValueError(f"{path}: expected a .npy or .npz file")
    return {"x": map_array(path)} if suffix == ".npy" else read_arrays(path)


def _check_integers(array: np.ndarray, what: str, count: int | None, most: int) -> None:
    """Raise a ValueError unless the values are integers in 0..count-1, and fewer than `most` of them."""
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{what} must be integers, got dtype {array.dtype}")
    if not array.size:
        raise ValueError(f"{what} is empty")
    low, high = int(array.min()), int(array.max())
    if low < 0 or (count is not None and high >= count):
        wrong = np.unravel_index(int(array.argmin() if low < 0 else array.argmax()), array.shape)
        bound = "" if count is None else f" and below vocab_size={count}"
        raise ValueError(f"{what} must be at least 0{bound}, got {array[wrong]} at index {[int(i) for i in wrong]}")
    if high >= most:
        raise ValueError(f"{what} must be below {most:,}, got {high:,}; number the values from 0 without gaps")


def repeated(x: np.ndarray, parts: dict[str, np.ndarray]) -> str | None:
    """Say how examples of one part are in another part too: as they are, mirrored, or as overlapping windows.

    Of more than `MOST_COMPARED` examples the first are compared.
    """
    part_of = np.empty(len(x), dtype=np.int8)
    for number, indices in enumerate(parts.values()):
        part_of[indices] = number
    x, part_of = x[:MOST_COMPARED], part_of[:MOST_COMPARED]
    if (count := _in_several(x, part_of, lambda row: row)) > 0:
        return f"{count:,} of {len(x):,} examples are in more than one part of the random split"
    if x.ndim == 4 and (count := _in_several(x, part_of, _unmirrored)) > 0:
        return f"{count:,} of {len(x):,} examples are in another part of the random split too, mirrored"
    if x.ndim == 2 and (step := _window_step(x)) is not None:
        return f"examples are overlapping windows (each starts {step} after the last), which a random split tears apart"
    return None


def _in_several(x: np.ndarray, part_of: np.ndarray, form: Callable[[np.ndarray], np.ndarray]) -> int:
    """Return how many examples have an equal one in another part."""
    hashes = np.fromiter((hash(form(row).tobytes()) for row in x), dtype=np.int64, count=len(x))
    _, which = np.unique(hashes, return_inverse=True)
    seen = np.zeros((which.max() + 1, 3), dtype=bool)
    seen[which, part_of] = True
    return int((seen.sum(1) > 1)[which].sum())


def _unmirrored(row: np.ndarray) -> np.ndarray:
    """Return an image or its mirror image, whichever has the smaller bytes: the same for both."""
    return min(row, row[:, ::-1], key=lambda image: image.tobytes())


def _window_step(x: np.ndarray) -> int | None:
    """Return by how much each example is the last one moved on, where they all are."""
    length = x.shape[1]
    some = np.unique(np.linspace(0, len(x) - 2, 64).astype(np.int64))
    before, after = np.asarray(x[some]), np.asarray(x[some + 1])
    for step in range(1, length - min(4, length // 2) + 1):
        moved = (before[:, step:] == after[:, : length - step]).all()
        if moved and (before != before[:, :1]).any():
            return step
    return None
