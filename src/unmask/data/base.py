"""What a data set is: three splits of examples as tokens, and the codec that made them."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor
from torch.utils.data import Dataset

from unmask.codecs.base import Codec
from unmask.lengths import Lengths
from unmask.types import Labels, Tokens

Part = Literal["train", "valid", "test", "all"]
"""A part of a data set; `all` is every example of it, once."""


MOST_CLASSES = 100_000
MOST_TOKENS = 1 << 24
"""Values above these are taken for another kind of data, for which nothing could be learned."""


class _Place(NamedTuple):
    """Where a memory map lies."""

    filename: str
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    order: Literal["C", "F"]

    @classmethod
    def of(cls, value: Any) -> Any:
        if not isinstance(value, np.memmap) or value.filename is None or not value.flags.forc:
            return value
        root = value  # whose offset is right: a slice keeps that of what it was cut from
        while isinstance(root.base, np.memmap):
            root = root.base
        start = root.offset + value.__array_interface__["data"][0] - root.__array_interface__["data"][0]
        order: Literal["C", "F"] = "C" if value.flags.c_contiguous else "F"
        return cls(str(value.filename), value.dtype, start, value.shape, order)

    def open(self) -> np.memmap:
        return np.memmap(self.filename, self.dtype, "r", self.offset, self.shape, self.order)


class Split(Dataset[tuple[Tensor, Tensor | None]], ABC):
    """Examples that are read many at a time: split[indices] is (tokens (batch, *dims), labels (batch,) or None).

    Examples:
        >>> split = unmask.Examples(np.arange(8).reshape(4, 2), labels=np.array([0, 1, 0, 1]))  # a split
        >>> for x, label in split.batches(2):
        ...     print(x.tolist(), label.tolist())
        ...
        [[0, 1], [2, 3]] [0, 1]
        [[4, 5], [6, 7]] [0, 1]
    """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, indices: Integer[np.ndarray, " batch"]) -> tuple[Tokens, Labels | None]: ...

    @abstractmethod
    def _chunks(self) -> Iterator[bytes]:
        """Yield what the checksum is of."""

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the split's tokens and labels, in hexadecimal."""
        digest = hashlib.sha256()
        for chunk in self._chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """Send a worker process the place of a memory map, not a copy of what it maps."""
        return {name: _Place.of(value) for name, value in self.__dict__.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= {name: value.open() if isinstance(value, _Place) else value for name, value in state.items()}

    def place(self, index: int) -> dict[str, Any]:
        """Return where an example stands in what the split was made of, as plain values; empty if that is not known."""
        return {}

    def spread(self, limit: int | None = None) -> Integer[np.ndarray, " count"]:
        """Return the indices of `limit` examples spread evenly over the split; of all if None."""
        count = len(self) if limit is None else min(limit, len(self))
        return np.arange(count) * len(self) // count

    def shuffled(self, generator: np.random.Generator) -> Integer[np.ndarray, " n"]:
        """Return the indices in the order in which an epoch of training sees the examples."""
        return generator.permutation(len(self))

    def expect(self, indices: Integer[np.ndarray, " n"]) -> None:
        """Be told which examples will be read soon; what lies elsewhere is fetched in the background."""

    def batches(self, size: int, limit: int | None = None) -> Iterator[tuple[Tokens, Labels | None]]:
        """Yield the examples in order, `size` at a time; with `limit`, that many spread evenly over the split."""
        return iter(Batches(self, size, limit))


class Batches(Sequence[tuple[Tokens, Labels | None]]):
    """The examples of a split in order, some at a time; a batch is read when it is asked for.

    Args:
        split: of the examples.
        size: examples at a time.
        limit: that many examples, spread evenly over the split; None: all.
    """

    def __init__(self, split: Split, size: int, limit: int | None = None) -> None:
        self.split, self.size, self.indices = split, size, split.spread(limit)

    def __len__(self) -> int:
        return -(-len(self.indices) // self.size)

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of {len(self)}")
        return self.split[self.indices[number * self.size : (number + 1) * self.size]]


S = TypeVar("S", bound=Split)


class Examples(Split):
    """Separate examples.

    Args:
        x: tokens (N, *dims), perhaps a memory map.
        labels: (N,), or None.
        chosen: the examples of x that belong to this split, in order; all if None.

    Examples:
        >>> examples = unmask.Examples(np.arange(12).reshape(4, 3))
        >>> x, labels = examples[np.array([0, 2])]
        >>> x
        tensor([[0, 1, 2],
                [6, 7, 8]])
    """

    def __init__(
        self,
        x: Integer[np.ndarray, "examples *dims"],
        labels: Integer[np.ndarray, " examples"] | None = None,
        chosen: Integer[np.ndarray, " chosen"] | None = None,
    ) -> None:
        self.x, self.labels = x, labels
        self.chosen = np.arange(len(x)) if chosen is None else chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, indices: Integer[np.ndarray, " batch"]) -> tuple[Tokens, Labels | None]:
        rows = self.chosen[indices]
        x = torch.from_numpy(self.x[rows].astype(np.int64))
        return x, None if self.labels is None else torch.from_numpy(self.labels[rows].astype(np.int64))

    def place(self, index: int) -> dict[str, Any]:
        """Return the row of x."""
        return {"row": int(self.chosen[index])}

    def _chunks(self) -> Iterator[bytes]:
        yield f"{self.x.dtype.str} {self.x.shape[1:]}".encode()
        many = max(1, (1 << 22) // max(1, math.prod(self.x.shape[1:])))
        for start in range(0, len(self), many):
            rows = self.chosen[start : start + many]
            yield self.x[rows].tobytes()
            if self.labels is not None:
                yield self.labels[rows].astype("<i8").tobytes()


class Windows(Split):
    """Windows of `length` tokens of one long text, which may lie on the disk.

    Args:
        tokens: the text, often a memory map.
        length: of a window.
        stride: from one window's start to the next's; `length` cuts the text into pieces, less overlaps them.
        start: of the text, in what it is a part of.

    Raises:
        ValueError: the text is shorter than one window.

    Examples:
        >>> windows = unmask.Windows(np.arange(10), length=4, stride=3)
        >>> x, _ = windows[np.arange(len(windows))]
        >>> x
        tensor([[0, 1, 2, 3],
                [3, 4, 5, 6],
                [6, 7, 8, 9]])
    """

    def __init__(self, tokens: Integer[np.ndarray, " n"], length: int, stride: int, start: int = 0) -> None:
        if len(tokens) < length:
            raise ValueError(f"the text has {len(tokens)} tokens, fewer than one sequence of length {length}")
        self.tokens, self.length, self.stride, self.start = tokens, length, stride, start

    def __len__(self) -> int:
        return (len(self.tokens) - self.length) // self.stride + 1

    def __getitem__(self, indices: Integer[np.ndarray, " batch"]) -> tuple[Tokens, None]:
        windows = np.lib.stride_tricks.sliding_window_view(self.tokens, self.length)
        return torch.from_numpy(windows[np.asarray(indices) * self.stride].astype(np.int64)), None

    def place(self, index: int) -> dict[str, Any]:
        """Return the number of the window's first token in the text."""
        return {"token": self.start + index * self.stride}

    def _chunks(self) -> Iterator[bytes]:
        for start in range(0, len(self.tokens), 1 << 20):
            yield self.tokens[start : start + (1 << 20)].astype("<i8").tobytes()


class Joined(Split):
    """Several splits one after another.

    Args:
        splits: of examples of one shape; all with labels, or none.
    """

    def __init__(self, splits: Sequence[Split]) -> None:
        self.splits = tuple(splits)
        self.starts = np.cumsum([0, *map(len, self.splits)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, indices: Integer[np.ndarray, " batch"]) -> tuple[Tokens, Labels | None]:
        which = np.searchsorted(self.starts, indices, side="right") - 1
        rows: list[Tensor] = []
        labels: list[Tensor] = []
        for number in np.unique(which):
            x, known = self.splits[number][indices[which == number] - self.starts[number]]
            rows.append(x)
            labels += [] if known is None else [known]
        back = torch.from_numpy(np.argsort(np.argsort(which, kind="stable"), kind="stable"))
        return torch.cat(rows)[back], torch.cat(labels)[back] if labels else None

    def place(self, index: int) -> dict[str, Any]:
        """Return which of the splits the example is of, and its place there."""
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        return {"split": number} | self.splits[number].place(index - int(self.starts[number]))

    def _chunks(self) -> Iterator[bytes]:
        for split in self.splits:
            yield split.checksum.encode()


@dataclass(frozen=True)
class DataSet(ABC):
    """Settings of a data set; what they name is read on first use.

    A subclass is a frozen dataclass whose fields are plain values, so that it is saved with a model.

    Examples:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Squares(unmask.DataSet):
        ...     count: int = 100
        ...     @property
        ...     def codec(self):
        ...         return unmask.Symbols(10)
        ...     @property
        ...     def shape(self):
        ...         return (4,)
        ...     def split(self, part):
        ...         start = {"train": 0, "valid": 80, "test": 90}[part]
        ...         stop = {"train": 80, "valid": 90, "test": self.count}[part]
        ...         return unmask.Examples(np.array([[int(c) for c in f"{i * i:04}"] for i in range(start, stop)]))
        >>> Squares().split("test")[np.array([0, 9])]
        (tensor([[8, 1, 0, 0],
                [9, 8, 0, 1]]), None)
    """

    @property
    def name(self) -> str:
        """What the data are called in reports."""
        return type(self).__name__

    @property
    @abstractmethod
    def codec(self) -> Codec:
        """Turns data into these tokens and back."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Dims of one example."""

    @property
    def has_given(self) -> bool:
        """Whether some tokens are given, not to be learned: t stands as -1 - t then."""
        return False

    @property
    def lengths(self) -> Lengths | None:
        """How long the training examples are, where they are filled up to one length; None: all have that length."""
        return None

    @property
    def classes(self) -> int | None:
        """Number of class labels; None without labels."""
        return None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What each class is called; None where they are numbers alone."""
        return None

    @abstractmethod
    def split(self, part: Part) -> Split:
        """Return the examples of a part; `all` is every example, once and as it is measured."""

    def resolved(self) -> "DataSet":
        """Return the same settings with those that were found from the data written out."""
        return self


def whole_of(parts: Mapping[str, Split], files: Collection[str]) -> Split:
    """Return every example of data of which some parts have a file of their own, and `whole` is that of the first."""
    each = [parts["whole"], *(parts[name] for name in ("valid", "test") if name in files)]
    return each[0] if len(each) == 1 else Joined(each)


def named_part(parts: Mapping[str, S], part: str, path: str, fewest: int, what: str) -> S:
    """Return a part of data; raise a ValueError where there were fewer examples than make three parts."""
    if part not in parts:
        raise ValueError(
            f"{path}: at least {fewest} {what} are needed for three parts, got {len(parts['whole'])}; name files for "
            "the others (--data.valid_path, --data.test_path); the part all is there"
        )
    return parts[part]


def shuffled_parts(count: int, valid: int, test: int, seed: int = 0) -> dict[str, Integer[np.ndarray, " indices"]]:
    """Cut 0..count-1 at random, always in the same way, into train, valid and test of the given sizes."""
    order = np.random.default_rng(seed).permutation(count)
    return {"test": order[:test], "valid": order[test : test + valid], "train": order[test + valid :]}
