"""Columns of Parquet files. Needs pyarrow (the extra `parquet` or `text`)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unmask.data.reading import check_file

ROWS = 256
"""Rows that are read at a time."""


def open_parquet(path: Path):  # type: ignore[no-untyped-def]  # pyarrow has no types
    """Open a Parquet file; raise a ValueError that names it if it is none, or damaged."""
    check_file(path)
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ImportError(f"{path}: reading Parquet needs pyarrow: pip install 'unmask[parquet]'") from None
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise ValueError(f"{path}: not a Parquet file, or damaged: {_line(error)}") from None


def read_columns(path: Path, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield the values of some columns of a Parquet file, row by row.

    Raises:
        ValueError: two columns of one name, values that Python has no type for, or a damaged file; says after which
            row.
    """
    file = open_parquet(path)
    for name in names:
        if file.schema_arrow.names.count(name) > 1:
            raise ValueError(f"{path}: has {file.schema_arrow.names.count(name)} columns named {name!r}")
    import pyarrow as pa

    number = 0
    known = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError)
    batches = file.iter_batches(ROWS, columns=list(names))
    while True:
        try:
            batch = next(batches, None)
            columns = [] if batch is None else [batch.column(name).to_pylist() for name in names]
        except known as error:
            raise ValueError(f"{path}: damaged, or not to be read, after row {number}: {_line(error)}") from None
        if batch is None:
            return
        yield from zip(*columns, strict=True)
        number += len(batch)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
