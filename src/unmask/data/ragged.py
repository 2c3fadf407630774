"""Examples of different length: their tokens one after another, from which rows of one length are made on demand."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64, Integer

from unmask.data.base import Split
from unmask.given import mark_given
from unmask.types import Tokens

STOP, GIVEN, PLACE, DIGEST = range(4)
"""Columns of the table of examples: where the tokens end, how many of them are given, the place in the file, a hash."""
Table = Int64[np.ndarray, "examples 4"]


def sizes(table: Table) -> Int64[np.ndarray, " examples"]:
    """Return the number of tokens of each example."""
    return np.diff(table[:, STOP], prepend=0)


@dataclass(frozen=True)
class Layout:
    """How an example becomes a row of one length.

    Args:
        length: L, of the row.
        fill: the token that fills it up.
        learned_fill: whether that is learned like the others; else it is given.
        end: a token that follows those of the example, and is learned; None: there is none.
        before: tokens that the row begins with; given.
        after: tokens that the example, or a row that is filled up with learned tokens, ends with; given.

    Raises:
        ValueError: the row has no room between them.
    """

    length: int
    fill: int
    learned_fill: bool = False
    end: int | None = None
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.room < 1:
            raise ValueError(
                f"length {self.length} leaves no room between the {len(self.before) + len(self.after)} tokens around "
                "every example"
            )

    @property
    def room(self) -> int:
        """Most tokens of an example, with its end."""
        return self.length - len(self.before) - len(self.after)

    @property
    def extra(self) -> int:
        """Tokens that every example needs beyond its own."""
        return 0 if self.end is None else 1

    def fits(self, table: Table) -> Bool[np.ndarray, " examples"]:
        """Return which examples fit into a row."""
        return sizes(table) + self.extra <= self.room

    def can_be_cut(self, table: Table) -> Bool[np.ndarray, " examples"]:
        """Return of which examples some token to be learned fits into a row."""
        return table[:, GIVEN] < self.room

    def inside(self, table: Table) -> Int64[np.ndarray, " examples"]:
        """Return how many tokens each row has of its example, with its end but not with what fills it up."""
        return np.minimum(sizes(table) + self.extra, self.room)

    def write(
        self,
        row: Int64[np.ndarray, " length"],
        known: Bool[np.ndarray, " length"],
        tokens: Integer[np.ndarray, " tokens"],
        given: int,
    ) -> None:
        """Write an example into a row, and which of its tokens are given into `known`, which is False.

        Args:
            row: to be written.
            known: to be written.
            tokens: of the example.
            given: how many of these, at the beginning, are given.
        """
        start, count = len(self.before), min(len(tokens), self.room)
        row[:start] = self.before
        row[start : start + count] = tokens[: self.room]
        stop = start + count
        if self.end is not None and len(tokens) < self.room:
            row[stop] = self.end
            stop += 1
        last = self.length - len(self.after) if self.learned_fill else stop
        row[stop:] = self.fill
        row[last : last + len(self.after)] = self.after
        known[: start + min(given, count)] = True
        known[last:] = True


class Ragged(Split):
    """Separate examples of different length, as rows of one length.

    Args:
        tokens: of all examples, one after another; often a memory map.
        table: of the examples; see `Table`.
        chosen: the examples that belong to this split, in order.
        layout: makes rows of them.
        source: what `place` calls the file that they come from.
        unit: what a place in it is called, such as "line".
    """

    def __init__(
        self,
        tokens: Integer[np.ndarray, " tokens"],
        table: Table,
        chosen: Integer[np.ndarray, " chosen"],
        layout: Layout,
        source: str = "",
        unit: str = "example",
    ) -> None:
        self.tokens, self.table, self.chosen, self.layout = tokens, table, chosen, layout
        self.source, self.unit = source, unit

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, indices: Integer[np.ndarray, " batch"]) -> tuple[Tokens, None]:
        rows = np.empty((len(indices), self.layout.length), dtype=np.int64)
        given = np.zeros(rows.shape, dtype=np.bool_)
        for row, known, i in zip(rows, given, self.chosen[indices].tolist(), strict=True):
            start = int(self.table[i - 1, STOP]) if i else 0
            self.layout.write(row, known, self.tokens[start : int(self.table[i, STOP])], int(self.table[i, GIVEN]))
        return mark_given(torch.from_numpy(rows), torch.from_numpy(given)), None

    def place(self, index: int) -> dict[str, Any]:
        """Return the file that an example comes from, and where it stands in it."""
        return {"file": self.source, self.unit: int(self.table[self.chosen[index], PLACE])}

    def inside(self) -> Int64[np.ndarray, " chosen"]:
        """Return how many tokens each row has before it is filled up, those around the example among them."""
        return self.layout.inside(self.table)[self.chosen] + self.layout.length - self.layout.room

    def learned(self) -> Int64[np.ndarray, " chosen"]:
        """Return how many tokens of each row are to be learned, where what fills it up is given."""
        return (self.layout.inside(self.table) - self.table[:, GIVEN])[self.chosen]

    def _chunks(self) -> Iterator[bytes]:
        yield json.dumps(asdict(self.layout)).encode()
        count = sizes(self.table)
        for start in range(0, len(self), 1 << 20):
            here = self.chosen[start : start + (1 << 20)]
            kept = np.stack((count[here], self.table[here, GIVEN], self.table[here, DIGEST]), 1)
            yield kept.astype("<i8").tobytes()
