"""Images in Parquet files, as data sets on the Hugging Face Hub hold them. Needs pyarrow (the extra `parquet`)."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from unmask.data.images import describe_size, open_image

IMAGES, LABELS = ("img", "image"), ("label", "fine_label")


def parquet_files(folder: Path, part: str) -> list[Path]:
    """Return the files of a part, named like train-00000-of-00002.parquet, in order."""
    return sorted(folder.rglob(f"{part}-*.parquet"))


def count_rows(files: Sequence[Path]) -> int:
    """Return how many rows the files have, from what they end with."""
    return sum(_open(path).metadata.num_rows for path in files)


def read_parquet(files: Sequence[Path], shape: tuple[int, ...]) -> Iterator[tuple[np.ndarray, int]]:
    """Yield each image of Parquet files with its label.

    The images are encoded files in the column `img` or `image` (bytes, or a struct with `bytes`), the labels in `label`
    or `fine_label`.

    Raises:
        ValueError: a file is damaged, lacks a column, or holds an image of another shape; names file and row.
    """
    import pyarrow as pa

    for path in files:
        row = 0
        file = _open(path)
        names = set(file.schema_arrow.names)
        columns = [next((name for name in known if name in names), "") for known in (IMAGES, LABELS)]
        if "" in columns:
            raise ValueError(f"{path}: expected columns of images (img, image) and labels (label), got {sorted(names)}")
        try:
            for batch in file.iter_batches(256, columns=columns):
                for image, label in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                    content = image["bytes"] if isinstance(image, dict) else image
                    pixels = open_image(io.BytesIO(content), f"{path}, row {row}")
                    if pixels.shape != shape:
                        expected = describe_size(np.empty(shape))
                        raise ValueError(f"{path}, row {row}: expected {expected}, got {describe_size(pixels)}")
                    yield pixels, label
                    row += 1
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: damaged after row {row}: {error}") from None


def _open(path: Path):  # type: ignore[no-untyped-def]  # pyarrow has no types
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ImportError(f"{path}: reading Parquet needs pyarrow: pip install 'unmask[parquet]'") from None
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a Parquet file, or damaged: {error}") from None
