"""Rows of files, each of which holds a text in one of its fields: JSON, CSV and Parquet."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unmask.checks import check_unicode
from unmask.data.formats import Format, inner_name
from unmask.data.reading import DamagedError, lines, open_text
from unmask.data.tables import open_parquet, read_columns
from unmask.storage.limits import MOST_ROW, limit, too_long


class BadRowError(ValueError):
    """A row that holds no text where there should be one."""


class Row(NamedTuple):
    """A row of a file.

    Attributes:
        where: its file and its place there.
        content: its fields, or the reason why it cannot be read.
    """

    where: str
    content: Any

    @property
    def place(self) -> tuple[str, int]:
        """What a place in the file is called, such as "line", and the number of this one."""
        unit, number = self.where.split()[-2:]
        return unit, int(number)


def field_of(row: Row, field: str, option: str = "--field names the one with the text") -> Any:
    """Return what is in a field of a row. `a.b` is the field b of the field a.

    Args:
        row: of a file.
        field: that is wanted.
        option: says in the error how another field is named.

    Raises:
        BadRowError: there is no such field, or the row cannot be read; says where.
    """
    content = row.content
    if isinstance(content, Exception):
        raise BadRowError(f"{row.where}: {content}")
    found = content.get(field, content) if isinstance(content, dict) else content
    if found is content:
        for name in field.split("."):
            if not isinstance(found, dict) or name not in found:
                if not isinstance(content, dict):
                    raise BadRowError(f"{row.where}: expected an object with fields, got {type(content).__name__}")
                has = ", ".join(map(str, found)) if isinstance(found, dict) else type(found).__name__
                raise BadRowError(f"{row.where}: has no field {field!r}, but {has[:200]}; {option}")
            found = found[name]
    return found


def text_of(row: Row, field: str, option: str = "--field names the one with the text") -> str:
    """Return the text in a field of a row; see `field_of`.

    Raises:
        BadRowError: there is no such field, no text in it, or half of a surrogate pair; says where.
    """
    found = field_of(row, field, option)
    if not isinstance(found, str):
        what = "null" if found is None else type(found).__name__
        raise BadRowError(f"{row.where}: the field {field!r} must be a text, got {what}")
    return valid_text(row, found)


def valid_text(row: Row, text: str) -> str:
    """Return a text of a row; raise a BadRowError if it is not valid Unicode."""
    try:
        check_unicode(text, row.where)
    except ValueError as error:
        raise BadRowError(str(error)) from None
    return text


def json_rows(path: Path) -> Iterator[Row]:
    """Yield the objects of a file of JSON: one a line, or those of a list, or the only one."""
    with open_text(path) as file:
        start = file.peek(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
    suffix = Path(inner_name(path)).suffix.lower()
    if start[:1] == b"[" or (suffix == ".json" and b"\n" in start and _reason(start.partition(b"\n")[0])):
        yield from _whole_json(path)
        return
    number, most = 0, limit(MOST_ROW)
    with open_text(path) as file:
        try:
            for number, line in enumerate(iter(lambda: file.readline(most + 1), b""), 1):
                if len(line) > most:
                    raise too_long(f"{path}, line {number}", most)
                if line.strip():
                    yield Row(f"{path}, line {number}", _parsed(line))
        except DamagedError as error:
            raise DamagedError(f"{error} (after line {number})") from None


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return ValueError(f"not valid JSON: {error}")


def _reason(line: bytes) -> bool:
    """Return whether a line is not JSON by itself."""
    return isinstance(_parsed(line), ValueError)


def _whole_json(path: Path) -> Iterator[Row]:
    most = limit(MOST_ROW)
    with open_text(path) as file:
        text = file.read(most + 1)
    if len(text) > most:
        raise too_long(f"{path}: a list, or one object", most)
    content = _parsed(text)
    if isinstance(content, ValueError):
        raise ValueError(f"{path}: {content}")
    for number, item in enumerate(content if isinstance(content, list) else [content]):
        yield Row(f"{path}, item {number}", item)


def csv_rows(
    path: Path, fields: Sequence[str], delimiter: str, option: str = "--field names the one with the text"
) -> Iterator[Row]:
    """Yield the rows of a file of columns, the first line of which names them.

    Where the first line names the columns only when cut at semicolons or tabs, these separate the columns.

    Args:
        path: of the file.
        fields: columns that there must be.
        delimiter: between columns.
        option: says in an error how another column is named.

    Raises:
        ValueError: no such column, or the file is not a table; names the line.
    """
    before = csv.field_size_limit(limit(MOST_ROW))
    number = 0  # of the last line that was read whole
    try:
        first = next(lines(path), "")
        if not set(fields) <= set(_cells(first, delimiter)):
            delimiter = next((other for other in ";\t" if set(fields) <= set(_cells(first, other))), delimiter)
        reader = csv.reader(lines(path), delimiter=delimiter, strict=True)
        names, number = next(reader, []), reader.line_num
        there = {*names}
        if (lacks := next((field for field in fields if field not in there), None)) is not None:
            raise ValueError(f"{path}: has no column {lacks!r}, but {', '.join(names)[:200]}; {option}")
        if len(set(names)) < len(names):
            raise ValueError(f"{path}: two columns have the same name, of {', '.join(names)[:200]}")
        for cells in reader:
            number = reader.line_num
            if not cells:
                continue
            where = f"{path}, line {number}"
            if len(cells) != len(names):
                yield Row(where, ValueError(f"has {len(cells)} columns, but the first line names {len(names)}"))
            else:
                yield Row(where, dict(zip(names, cells, strict=True)))
    except csv.Error as error:
        raise ValueError(f"{path}, line {number + 1}: not a table of columns: {error}") from None
    finally:
        csv.field_size_limit(before)


def column_names(path: Path, format: Format) -> list[str]:
    """Return the names of the columns of a file of CSV, TSV or Parquet, which its first line has."""
    if format == "parquet":
        return list(open_parquet(path).schema_arrow.names)
    first = next(lines(path), "").removesuffix("\n")
    delimiter = "\t" if format == "tsv" else ","
    if delimiter not in first:
        delimiter = next((other for other in ";\t" if other in first), delimiter)
    try:
        return _cells(first, delimiter)
    except csv.Error as error:
        raise ValueError(f"{path}, line 1: not a table of columns: {error}") from None


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def parquet_rows(
    path: Path, fields: Sequence[str], option: str = "--field names the one with the text"
) -> Iterator[Row]:
    """Yield the rows of some columns of a Parquet file.

    Raises:
        ValueError: no such column, or a damaged file; says after which row.
    """
    names = open_parquet(path).schema_arrow.names
    columns = {}
    for field in fields:
        columns[field if field in names else field.partition(".")[0]] = field
    for column, field in columns.items():
        if column not in names:
            raise ValueError(f"{path}: has no column {field!r}, but {', '.join(names)[:200]}; {option}")
    for number, values in enumerate(read_columns(path, list(columns))):
        yield Row(f"{path}, row {number}", dict(zip(columns, values, strict=True)))


def rows_of(
    path: Path, format: Format, fields: Sequence[str], option: str = "--field names the one with the text"
) -> Iterator[Row]:
    """Yield the rows of a file of JSON, CSV, TSV or Parquet, each with some fields at least.

    Raises:
        ValueError: it is a text, or not what its format says; names the file and the place.
    """
    if format == "json":
        return json_rows(path)
    if format == "parquet":
        return parquet_rows(path, fields, option)
    if format == "text":
        raise ValueError(f"{path}: is a text, without fields; expected JSON, CSV, TSV or Parquet")
    return csv_rows(path, fields, "\t" if format == "tsv" else ",", option)
