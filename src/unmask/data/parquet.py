"""Images in Parquet files, as data sets on the Hugging Face Hub hold them. Needs pyarrow (the extra `parquet`)."""

import io
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from unmask.data.picture import describe_size, open_image
from unmask.data.reading import visible_files
from unmask.data.tables import open_parquet, read_columns

IMAGES, LABELS = ("img", "image"), ("label", "fine_label")


def parquet_files(folder: Path, part: str) -> list[Path]:
    """Return the files of a part, named like train-00000-of-00002.parquet, in order."""
    return [path for path in visible_files(folder) if fnmatchcase(path.name.lower(), f"{part}-*.parquet")]


def count_rows(files: Sequence[Path]) -> int:
    """Return how many rows the files have, from what they end with."""
    return sum(open_parquet(path).metadata.num_rows for path in files)


def read_parquet(files: Sequence[Path], shape: tuple[int, ...], classes: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield each image of Parquet files with its label.

    The images are encoded files in the column `img` or `image` (bytes, or a struct with `bytes`), the labels in `label`
    or `fine_label`.

    Raises:
        ValueError: a file is damaged, lacks a column, or holds an image of another shape; names file and row.
    """
    for path in files:
        for row, (image, label) in enumerate(_rows(path, (IMAGES, LABELS))):
            where = f"{path}, row {row}"
            content = image.get("bytes") if isinstance(image, dict) else image
            if not isinstance(content, bytes):
                raise ValueError(f"{where}: expected the bytes of an image, got {type(content).__name__}")
            pixels = open_image(io.BytesIO(content), where)
            if pixels.shape != shape:
                raise ValueError(f"{where}: expected {describe_size(np.empty(shape))}, got {describe_size(pixels)}")
            yield pixels, _checked(label, where, classes)


def read_labels(files: Sequence[Path], classes: int) -> np.ndarray:
    """Return the labels of Parquet files, without reading the images."""
    found = [_checked(label, where, classes) for path in files for label, where in _numbered(path)]
    return np.array(found, dtype=np.int64)


def _numbered(path: Path) -> Iterator[tuple[Any, str]]:
    yield from ((label, f"{path}, row {row}") for row, (label,) in enumerate(_rows(path, (LABELS,))))


def _checked(label: Any, where: str, classes: int) -> int:
    """Return a label; raise a ValueError unless it is a whole number in 0..classes-1."""
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < classes:
        raise ValueError(f"{where}: the label must be in 0..{classes - 1}, got {label!r}")
    return label


def _rows(path: Path, wanted: tuple[tuple[str, ...], ...]) -> Iterator[tuple[Any, ...]]:
    """Yield what a file holds in some columns, each of which may go by one of several names."""
    names = set(open_parquet(path).schema_arrow.names)
    columns = [next((name for name in known if name in names), "") for known in wanted]
    if "" in columns:
        raise ValueError(f"{path}: expected columns of images (img, image) and labels (label), got {sorted(names)}")
    yield from read_columns(path, columns)
