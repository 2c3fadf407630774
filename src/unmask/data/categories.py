"""Tables of which every column has categories, such as answers to a questionnaire."""

import csv
import io
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Int64

from unmask.codecs.table import Table
from unmask.data.base import DataSet, Part, Split, named_part, shuffled_parts, whole_of
from unmask.data.conditioned import Conditioned
from unmask.data.formats import Format, check_format, find_format
from unmask.data.rows import BadRowError, Row, column_names, field_of, rows_of, valid_text

Missing = Literal["category", "given"]
PARTS = ("train", "valid", "test")
FEWEST = 20
"""Rows that a file must have to be cut into parts."""
OPTION = "--data.columns names them"


class Cells(NamedTuple):
    """The chosen cells of a file.

    Attributes:
        rows: texts of the cells of each row.
        places: of the rows in the file.
        unit: what a place is called.
    """

    rows: list[list[str]]
    places: Int64[np.ndarray, " rows"]
    unit: str


class TableRows(Conditioned):
    """Rows of a table, which know where they stand in the file."""

    def __init__(
        self,
        x: Int64[np.ndarray, "rows columns"],
        chosen: Int64[np.ndarray, " chosen"],
        given: Bool[np.ndarray, "rows columns"] | None,
        cells: Cells,
        source: str,
    ) -> None:
        super().__init__(x, None, chosen, given)
        self.places, self.unit, self.source = cells.places, cells.unit, source

    def place(self, index: int) -> dict[str, Any]:
        """Return the file that a row is from, and where it stands there."""
        return {"file": self.source, self.unit: int(self.places[self.chosen[index]])}


@dataclass(frozen=True)
class Categories(DataSet):
    """Rows of CSV, TSV, JSON or Parquet: an example has a position for each column, with categories of its own.

    Every text that a cell of the column has is a category, exactly as it stands; so are numbers, of which there should
    be few. 90 % of the rows train, 5 % validate and 5 % test.

    Args:
        path: the file, plain or compressed (but for Parquet).
        columns: names of the columns, with commas between them; those with commas in quotes. None: all.
        missing: what an empty cell is. `category`: a category like others, which is learned and drawn. `given`: a value
            that is not known: neither learned nor counted, and never drawn.
        most: categories that a column can have at most.
        valid_path: a file to validate on; None: 5 % of `path`, chosen at random, always in the same way.
        test_path: a file to test on; None: as for `valid_path`.
        format: json, csv, tsv or parquet; found out if None.
        values: the categories of each column, in the order of their tokens; those that `path` has if None.
    """

    path: str
    columns: str | None = None
    missing: Missing = "category"
    most: int = 256
    valid_path: str | None = None
    test_path: str | None = None
    format: Format | None = None
    values: tuple[tuple[str, ...], ...] | None = None

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("no file was named: give --data.path FILE")
        if self.missing not in get_args(Missing):
            raise ValueError(f"missing must be one of {', '.join(get_args(Missing))}, got {self.missing!r}")
        if self.most < 1:
            raise ValueError(f"most must be at least 1, got {self.most}")
        check_format(self.format)
        if self.columns is not None:
            names = self._names
            if not names or len(set(names)) < len(names):
                raise ValueError(f'columns must be different names such as "a,b,c", got {self.columns!r}')

    @cached_property
    def _names(self) -> list[str]:
        """The chosen columns, in order."""
        if self.columns is not None:
            return next(csv.reader([self.columns], skipinitialspace=True), [])
        path = Path(self.path)
        format = self.format or find_format(path)
        if format == "json":
            first = next(rows_of(path, format, []), None)
            return list(first.content) if first is not None and isinstance(first.content, dict) else []
        return column_names(path, format)

    def _read(self, path: Path) -> Cells:
        """Return the chosen cells of a file."""
        rows, places, unit = [], [], "line"
        for row in rows_of(path, self.format or find_format(path), self._names, OPTION):
            rows.append([cell_text(row, name) for name in self._names])
            unit, place = row.place
            places.append(place)
        if not rows:
            raise ValueError(f"{path}: holds no row")
        return Cells(rows, np.array(places, dtype=np.int64), unit)

    @cached_property
    def _files(self) -> dict[str, Cells]:
        """The files, by the first of the parts that each is for."""
        named = (("train", self.path), ("valid", self.valid_path), ("test", self.test_path))
        return {part: self._read(Path(name)) for part, name in named if name is not None}

    @cached_property
    def codec(self) -> Table:
        """The categories of all columns.

        Raises:
            ValueError: a column has too many, or none.
        """
        given = self.missing == "given"
        if self.values is not None:
            return Table(tuple(self._names), self.values, given)
        found = [set(cells) for cells in zip(*self._files["train"].rows, strict=True)]
        for name, values in zip(self._names, found, strict=True):
            values -= {""} if given else set()
            if not values:
                raise ValueError(f"{self.path}: every cell of the column {name!r} is empty; leave it out ({OPTION})")
            if len(values) > self.most:
                raise ValueError(
                    f"{self.path}: the column {name!r} has {len(values):,} different values, and categories are for at "
                    f"most {self.most} (--data.most); put its values into a few ranges, or leave it out ({OPTION})"
                )
        return Table(tuple(self._names), tuple(map(in_order, found)), given)

    def _encode(self, cells: Cells, path: str) -> Int64[np.ndarray, "rows columns"]:
        """Return the tokens of rows."""
        codec, columns = self.codec, []
        for name, texts in zip(self._names, zip(*cells.rows, strict=True), strict=True):
            tokens: dict[str, int] = {}
            for number, text in enumerate(texts):
                if text not in tokens:
                    try:
                        tokens[text] = codec.token(name, text)
                    except ValueError as error:
                        raise ValueError(f"{path}, {cells.unit} {cells.places[number]}: {error}") from None
            columns.append(np.fromiter((tokens[text] for text in texts), np.int64, len(texts)))
        return np.stack(columns, 1)

    @cached_property
    def _parts(self) -> dict[str, TableRows]:
        found: dict[str, TableRows] = {}
        for part, cells in self._files.items():
            path = {"train": self.path, "valid": self.valid_path, "test": self.test_path}[part] or ""
            x = self._encode(cells, path)
            given = x == self.codec.vocab_size - 1 if self.missing == "given" else None
            kept = np.flatnonzero(np.ones(len(x)) if given is None else ~given.all(1))
            if len(kept) < len(x):
                warnings.warn(
                    f"{path}: {len(x) - len(kept):,} rows of which nothing is known are left out", stacklevel=2
                )
            found["whole" if part == "train" else part] = TableRows(x, kept, given, cells, path)
        whole = found["whole"]
        count = len(whole)
        if count < FEWEST and len(self._files) < len(PARTS):
            return found
        held = {part: 0 if part in self._files else count // FEWEST for part in PARTS[1:]}
        for part, chosen in shuffled_parts(count, **held).items():
            if part not in found:
                found[part] = TableRows(whole.x, whole.chosen[chosen], whole.given, self._files["train"], self.path)
        return found

    @property
    def name(self) -> str:
        return Path(self.path).name

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._names),)

    @property
    def has_given(self) -> bool:
        return self.missing == "given"

    def split(self, part: Part) -> Split:
        if part == "all":
            return whole_of(self._parts, self._files)
        return named_part(self._parts, part, self.path, FEWEST, "rows")

    def resolved(self) -> "Categories":
        return replace(self, columns=csv_line(self._names), values=self.codec.values)


def csv_line(names: Iterable[str]) -> str:
    """Return names with commas between them, in quotes where one has a comma, or a space at an end, or is empty."""
    line, names = io.StringIO(), [*names]
    plain = all(name and name == name.strip() for name in names)
    csv.writer(line, lineterminator="", quoting=csv.QUOTE_MINIMAL if plain else csv.QUOTE_ALL).writerow(names)
    return line.getvalue()


def cell_text(row: Row, name: str) -> str:
    """Return what stands in a cell, as text; nothing for null.

    Raises:
        BadRowError: there is no such column, or no single value in it; says where.
    """
    found = field_of(row, name, OPTION)
    if found is None:
        return ""
    if isinstance(found, bool):
        return str(found).lower()
    if not isinstance(found, str | int | float):
        raise BadRowError(f"{row.where}: the column {name!r} must hold a text or a number, got {type(found).__name__}")
    return valid_text(row, str(found))


def in_order(values: Iterable[str]) -> tuple[str, ...]:
    """Return categories in order: as numbers where all that are not empty are, else as texts.

    Infinities and what is not a number (nan) come after the numbers, as texts.
    """

    def place(value: str) -> tuple[bool, bool, float, str]:
        number = float(value or 0)
        finite = math.isfinite(number)
        return value != "", not finite, number if finite else 0.0, value

    try:
        return tuple(sorted(values, key=place))
    except ValueError:
        return tuple(sorted(values))
