"""How documents fill sequences of one length: the packings of a corpus, and its tokens as one array."""

import json
from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64, Integer

from unmask.codecs.base import Codec
from unmask.data.base import Split
from unmask.data.index import SUFFIXES, Index, Shard, corpus_checksum
from unmask.given import encode_given
from unmask.storage.folders import INDEX
from unmask.storage.sums import verify_file
from unmask.types import Tokens

Packing = Literal["concatenated", "wrapped", "padded", "filled"]
RUN, WINDOW = 4, 16
"""Of a corpus elsewhere, training shuffles the sequences of 16 shards at a time: four runs of four neighbours."""


class Shards:
    """The tokens of a corpus as one long array, whose shards are mapped when they are first read.

    Args:
        folder: of the corpus.
        index: of it.

    Attributes:
        vocab_size: that all tokens must be below; None does not check.
        wrap: tokens that sequences begin with and end with, of a codec that has some.
        padding: the token that fills sequences up; None: the one that ends a text.
    """

    elsewhere = False
    """Whether shards must be fetched before they are read."""

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder, self.index = folder, index
        self.vocab_size: int | None = None
        self.wrap: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
        self.padding: int | None = None
        self.starts = np.cumsum([0, *(shard.tokens for shard in index.shards)])
        self.maps: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def fit(self, codec: Codec) -> "Shards":
        """Take from a codec what the tokens must be, and what goes around them."""
        self.vocab_size, self.wrap, self.padding = codec.vocab_size, codec.wrap, codec.padding
        return self

    @property
    def fill(self) -> int:
        """The token that fills sequences up."""
        return self.index.end if self.padding is None else self.padding

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "maps": {}}  # a worker maps the files itself

    @cached_property
    def ends(self) -> Int64[np.ndarray, " documents"]:
        """How many tokens there are up to the end of each document."""
        parts = [self._ends(shard) + start for shard, start in zip(self.index.shards, self.starts, strict=False)]
        return np.concatenate(parts)

    def expect(self, numbers: Integer[np.ndarray, " shards"]) -> None:
        """Be told which shards will be read soon."""

    def _file(self, shard: Shard, kind: int) -> Path:
        """Return a file of a shard, which is what it was when it was written: tokens (0) or ends (1)."""
        path = self.folder / f"{shard.name}{SUFFIXES[kind]}"
        verify_file(path, shard.sha256[kind], INDEX)
        return path

    def _ends(self, shard: Shard) -> Int64[np.ndarray, " documents"]:
        path = self._file(shard, 1)
        try:
            ends = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{path}: damaged: {error}; prepare the corpus anew with --overwrite") from None
        whole = ends.dtype == np.int64 and ends.shape == (shard.documents,) and len(ends) and ends[-1] == shard.tokens
        if not whole or (np.diff(ends, prepend=0) < 1).any():
            raise ValueError(f"{path}: damaged: not the ends of {shard.documents} documents; prepare the corpus anew")
        return ends

    def _map(self, shard: Shard) -> Integer[np.ndarray, " tokens"]:
        path = self._file(shard, 0)
        tokens = np.memmap(path, self.index.dtype, "r")
        if self.vocab_size is not None and (highest := int(tokens.max())) >= self.vocab_size:
            raise ValueError(f"{path}: holds the token {highest}, but the tokenizer has {self.vocab_size:,}")
        return tokens

    def _mapped(self, number: int) -> Integer[np.ndarray, " tokens"]:
        """Return the tokens of a shard."""
        if number not in self.maps:
            self.maps[number] = self._map(self.index.shards[number])
        return self.maps[number]

    def read(self, start: int, stop: int) -> Integer[np.ndarray, " tokens"]:
        """Return tokens start..stop-1, across the borders of shards."""
        first, last = np.searchsorted(self.starts, (start, stop - 1), side="right") - 1
        pieces = []
        for number in range(first, last + 1):
            base = self.starts[number]
            pieces.append(self._mapped(number)[max(start - base, 0) : stop - base])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


class Packed(Split):
    """Documents first..last-1 of a corpus in sequences of one length.

    Args:
        shards: of the corpus.
        first: document.
        last: the one after the last.
        length: of a sequence.

    Raises:
        ValueError: there is not one sequence.
    """

    def __init__(self, shards: Shards, first: int, last: int, length: int) -> None:
        self.shards, self.length, self.documents = shards, length, (first, last)
        ends = shards.ends
        self.start, self.stop = (int(ends[i - 1]) if i else 0 for i in (first, last))
        around = sum(map(len, self.around))
        self.room = length - around
        if self.room < 1:
            raise ValueError(f"length {length} leaves no room between the {around} tokens around a sequence")
        if not len(self):
            raise ValueError(f"{self.stop - self.start} tokens are fewer than one sequence of length {length}")

    @property
    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens that a sequence begins with and ends with."""
        return (), ()

    @abstractmethod
    def begin(self, i: Any) -> Any:
        """Return the number of the first token of sequence i, or of each of several, in the corpus."""

    @abstractmethod
    def row(self, i: int) -> Integer[np.ndarray, " length"]:
        """Return sequence i."""

    def place(self, index: int) -> dict[str, Any]:
        """Return the number, from 0, of the document that a sequence begins in, and of its first token there."""
        at, ends = int(self.begin(index)), self.shards.ends
        document = int(np.searchsorted(ends, at, side="right"))
        return {"document": document, "token": at - (int(ends[document - 1]) if document else 0)}

    def _shard(self, indices: Integer[np.ndarray, " n"]) -> Integer[np.ndarray, " n"]:
        """Return the number of the shard that each sequence begins in."""
        return np.searchsorted(self.shards.starts, self.begin(indices), side="right") - 1

    def shuffled(self, generator: np.random.Generator) -> Integer[np.ndarray, " n"]:
        """Return the sequences in the order of an epoch; of a corpus elsewhere those of some shards at a time."""
        of = self._shard(np.arange(len(self))) if self.shards.elsewhere else np.zeros(1)
        self.windows: list[np.ndarray] = []
        if len(used := np.unique(of)) <= WINDOW:
            return super().shuffled(generator)
        run = (used + generator.integers(RUN)) // RUN
        runs = generator.permutation(np.unique(run))
        windows = [runs[i : i + WINDOW // RUN] for i in range(0, len(runs), WINDOW // RUN)]
        self.windows = [used[np.isin(run, window)] for window in windows]
        inside = [np.flatnonzero(np.isin(of, window)) for window in self.windows]
        return np.concatenate([generator.permutation(some) for some in inside])

    def expect(self, indices: Integer[np.ndarray, " n"]) -> None:
        """Be told which sequences training sees next: the shards of these and of those after them are fetched."""
        if not self.shards.elsewhere:
            return
        here = np.unique(self._shard(indices))
        self.shards.expect(here)
        for before, after in pairwise(self.windows):
            if np.isin(here, before).any():
                self.shards.expect(after)

    def __getitem__(self, indices: Integer[np.ndarray, " batch"]) -> tuple[Tokens, None]:
        rows = np.empty((len(indices), self.length), dtype=np.int64)
        for row, i in zip(rows, indices, strict=True):
            row[:] = self.row(int(i))
        return torch.from_numpy(rows), None

    def _chunks(self) -> Iterator[bytes]:
        settings: list[Any] = [type(self).__name__, self.length, *self.documents]
        if any(self.shards.wrap) or self.shards.padding is not None:
            settings += [self.around, self.shards.fill]
        yield json.dumps([corpus_checksum(self.shards.index), *settings]).encode()


class Concatenated(Packed):
    """Documents, each with its end, one after another, cut where a sequence is full; what is left over is dropped."""

    def __len__(self) -> int:
        return (self.stop - self.start) // self.length

    def begin(self, i: Any) -> Any:
        return self.start + i * self.length

    def row(self, i: int) -> Integer[np.ndarray, " length"]:
        at = self.begin(i)
        return self.shards.read(at, at + self.length)


class Wrapped(Packed):
    """As `Concatenated`, but every sequence is wrapped: as the codec does, else in the token that ends a text."""

    @property
    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        end = (self.shards.index.end,)
        return self.shards.wrap if any(self.shards.wrap) else (end, end)

    def __len__(self) -> int:
        return (self.stop - self.start) // self.room

    def begin(self, i: Any) -> Any:
        return self.start + i * self.room

    def row(self, i: int) -> Integer[np.ndarray, " length"]:
        at = self.begin(i)
        before, after = self.around
        return np.concatenate((before, self.shards.read(at, at + self.room), after)).astype(np.int64)


class ByDocument(Packed):
    """Every document by itself, cut where a sequence is full; each sequence is wrapped where the codec does so."""

    @property
    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.shards.wrap

    @cached_property
    def rows(self) -> Int64[np.ndarray, "sequences 2"]:
        """Where the part of the documents in each sequence starts and stops."""
        first, last = self.documents
        ends = self.shards.ends[first:last]
        starts = np.concatenate(([self.start], ends[:-1]))
        return _pieces(starts, ends - self.left_out, self.room)

    @property
    @abstractmethod
    def left_out(self) -> int:
        """How many tokens at the end of a document are not read."""

    def __len__(self) -> int:
        return len(self.rows)

    def begin(self, i: Any) -> Any:
        return self.rows[i, 0]


class Padded(ByDocument):
    """Every document, with its end, by itself: cut where a sequence is full, the last sequence filled up.

    What it is filled up with is the padding token, or the token that ends a text: t is written as -1 - t, which is
    given, not to be learned, and not counted. A document has no end of its own where that token is what the codec puts
    after it anyway.
    """

    @property
    def left_out(self) -> int:
        return int(self.shards.index.end in self.around[1])

    def row(self, i: int) -> Integer[np.ndarray, " length"]:
        before, after = self.around
        tokens = np.concatenate((before, self.shards.read(*self.rows[i].tolist()), after))
        filled = np.full(self.length, encode_given(self.shards.fill), dtype=np.int64)
        filled[: len(tokens)] = tokens
        return filled


class Filled(ByDocument):
    """Every document by itself: cut where a sequence is full, the last sequence filled up with the token that ends it.

    These tokens are learned and counted like others.
    """

    @property
    def left_out(self) -> int:
        return 1

    def row(self, i: int) -> Integer[np.ndarray, " length"]:
        before, after = self.around
        start, stop = self.rows[i].tolist()
        ends = np.full(self.room - (stop - start), self.shards.index.end)
        return np.concatenate((before, self.shards.read(start, stop), ends, after)).astype(np.int64)


def _pieces(
    starts: Int64[np.ndarray, " documents"], stops: Int64[np.ndarray, " documents"], room: int
) -> Int64[np.ndarray, "sequences 2"]:
    """Cut documents into pieces of at most `room` tokens; return where each starts and stops."""
    counts = -(-(stops - starts) // room)
    inside = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    begin = np.repeat(starts, counts) + inside * room
    return np.stack((begin, np.minimum(begin + room, np.repeat(stops, counts))), 1)


PACKED: dict[str, type[Packed]] = {
    "concatenated": Concatenated,
    "wrapped": Wrapped,
    "padded": Padded,
    "filled": Filled,
}
