"""Rows of a table, every column with categories of its own."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unmask.codecs.base import Codec, check_batch
from unmask.types import Tokens

Values = tuple[tuple[str, ...], ...]
"""The categories of each column, in the order of their tokens."""


@dataclass(frozen=True)
class Table(Codec):
    """Rows of a table: position i is column i, whose categories have a block of token values of their own.

    Args:
        columns: their names.
        values: the categories of each, as they stand in the table.
        missing: whether there is one more token, the last one, for a value that is not known. It is given wherever it
            stands, so that it is never learned or drawn.

    Raises:
        ValueError: no column, a name or a category that is there twice, or a column without categories.
    """

    columns: tuple[str, ...]
    values: Values
    missing: bool = False
    unit = "cell"

    def __post_init__(self) -> None:
        if not self.columns or len(self.columns) != len(self.values):
            raise ValueError(f"a table needs columns, each with its categories; got {self.columns!r:.80}")
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"columns must have different names, got {', '.join(self.columns)}")
        for column, values in zip(self.columns, self.values, strict=True):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"the column {column!r} must have different categories, got {values!r:.80}")

    @cached_property
    def _starts(self) -> list[int]:
        """The first token of each column."""
        return [0, *accumulate(map(len, self.values))]

    @cached_property
    def _numbers(self) -> dict[str, dict[str, int]]:
        """The token of each category, for each column."""
        empty = {"": self.vocab_size - 1} if self.missing else {}
        return {
            column: {value: start + i for i, value in enumerate(values)} | empty
            for column, start, values in zip(self.columns, self._starts, self.values, strict=False)
        }

    @property
    def vocab_size(self) -> int:
        return self._starts[-1] + self.missing

    @property
    def allowed(self) -> Bool[Tensor, "columns vocab"]:
        """Which tokens each column can have: those of its categories."""
        tokens = torch.arange(self.vocab_size)
        starts = torch.tensor(self._starts).unsqueeze(1)
        return (tokens >= starts[:-1]) & (tokens < starts[1:])

    def token(self, column: str, value: str) -> int:
        """Return the token of a value of a column.

        Raises:
            ValueError: no such column, or no such category of it.
        """
        numbers = self._numbers.get(column)
        if numbers is None:
            raise ValueError(f"there is no column {column!r}, but {', '.join(self.columns)[:200]}")
        if value not in numbers:
            known = ", ".join(map(repr, self.values[self.columns.index(column)]))
            raise ValueError(f"{value!r} is no category of the column {column!r}, which has {known:.200}")
        return numbers[value]

    def encode(self, data: Mapping[str, str]) -> Int[Tensor, " columns"]:
        """Return the tokens of a row, a category by the name of each column.

        Raises:
            ValueError: a column or a category that the table does not have, or a column that the row lacks.
        """
        if lacks := [column for column in self.columns if column not in data]:
            raise ValueError(f"the row lacks the column {lacks[0]!r}")
        found = {column: self.token(column, value) for column, value in data.items()}
        return torch.tensor([found[column] for column in self.columns])

    def canvas(self, row: Mapping[str, str | None] | str) -> Int[Tensor, " columns"]:
        """Return the tokens of a row of which some values are unknown, V there.

        Args:
            row: the known values by the names of their columns, also as JSON; null, or a column that is not there, is
                unknown.

        Raises:
            ValueError: no JSON object, no such column or category, or nothing is unknown.
        """
        if isinstance(row, str):
            try:
                row = json.loads(row)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"row {row!r:.80}: not valid JSON: {error}") from None
        if not isinstance(row, Mapping) or not all(isinstance(value, str | None) for value in row.values()):
            raise ValueError(f'a row is an object with a text for each column, such as {{"a": "x"}}, got {row!r:.80}')
        known = {column: self.token(column, value) for column, value in row.items() if value is not None}
        if len(known) == len(self.columns):
            raise ValueError("every column of the row is known: there is nothing to draw")
        return torch.tensor([known.get(column, self.vocab_size) for column in self.columns])

    def decode(self, x: Tokens, unknown: str = "\N{LIGHT SHADE}") -> list[dict[str, str]]:
        """Return each row as a dict; a value that is not known is empty, and a mask is `unknown`."""
        words = [*(value for values in self.values for value in values), *([""] if self.missing else []), unknown]
        rows = check_batch(x, self.vocab_size).tolist()
        return [dict(zip(self.columns, (words[i] for i in row), strict=True)) for row in rows]
