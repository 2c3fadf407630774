"""ImageNet, downsampled to 64x64: 1,281,167 colour photographs in 1,000 classes (arXiv:1707.08819)."""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from unmask.data.base import Part
from unmask.data.images import ImageSet, Pictures, cached_array, held_out, load_npz
from unmask.data.parquet import count_rows, parquet_files, read_labels, read_parquet

SHAPE = (64, 64, 3)
SIZE = 64 * 64 * 3
HELD_OUT = 1000


@dataclass(frozen=True)
class ImageNet64(ImageSet):
    """ImageNet 64x64: the validation images test; of the training images the last 1,000 validate.

    What is read goes into the cache once, as memory-mapped bytes (16 GB for all of it).

    Args:
        path: a folder with train_data_batch_1.npz to _10.npz and val_data.npz (or several, as val_data_*.npz), as
            image-net.org gives them to those who have agreed to its terms; or with train-*.parquet and
            validation-*.parquet.
    """

    path: str = ""

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError(
                "ImageNet 64x64 cannot be downloaded without an account: get the npz files from image-net.org and "
                "give --data.path FOLDER"
            )

    @cached_property
    def _train(self) -> Pictures:
        return read_part(Path(self.path), "train")

    @cached_property
    def _test(self) -> Pictures:
        return read_part(Path(self.path), "val")

    @property
    def name(self) -> str:
        whole = (len(self._train.x), len(self._test.x)) == (1_281_167, 50_000)
        what = "ImageNet 64x64, not verified" if whole else "not all of ImageNet 64x64"
        return f"{Path(self.path).resolve().name} ({what})"

    @property
    def shape(self) -> tuple[int, ...]:
        return SHAPE

    @property
    def classes(self) -> int | None:
        return 1000 if self.labels else None

    def pictures(self, part: Part) -> Pictures:
        if part == "test":
            return self._test
        return held_out(self._train, part, HELD_OUT, self.path)


def read_part(folder: Path, part: str) -> Pictures:
    """Read the npz or Parquet files of a part, through the cache.

    Raises:
        FileNotFoundError: no such folder, or no such files in it.
        ValueError: a damaged file, or one of another kind; names it.
    """
    numbered = sorted(folder.glob(f"{part}_data*.npz"), key=lambda path: (len(path.name), path.name))
    parquet = parquet_files(folder, {"val": "validation"}.get(part, part))
    if not numbered and not parquet:
        raise FileNotFoundError(f"{folder}: no {part}_data*.npz there, nor Parquet files of images")
    files = numbered or parquet
    key = [str(folder.resolve()), *((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files)]

    def write(target: Path) -> None:
        count = sum(_shape(path)[0] for path in files) if numbered else count_rows(files)
        rows = np.lib.format.open_memmap(target, "w+", np.uint8, (count, *SHAPE))
        at = 0
        with tqdm(total=count, desc=f"reading ImageNet 64x64 ({part})", unit="image", delay=2) as bar:
            for pixels in _from_npz(files) if numbered else (x[None] for x, _ in read_parquet(files, SHAPE, 1000)):
                rows[at : at + len(pixels)] = pixels
                at += len(pixels)
                bar.update(len(pixels))
        rows.flush()

    labels = [_labels(path) for path in files] if numbered else [read_labels(files, 1000)]
    return Pictures(cached_array(key, write), np.concatenate(labels))


def _shape(path: Path) -> tuple[int, ...]:
    """Return the shape of `data` in an npz file from its header alone."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("data.npy") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: damaged, or without an array 'data': {error}") from None
    if len(shape) != 2 or shape[1] != SIZE or dtype != np.uint8:
        raise ValueError(f"{path}: expected `data` of uint8 (N, {SIZE}), got {dtype} {shape}")
    return shape


def _labels(path: Path) -> np.ndarray:
    """Return the labels of an npz file, from 0."""
    labels = load_npz(path, "labels").get("labels")
    count = _shape(path)[0]
    if labels is None or labels.shape != (count,) or (count and (labels.min() < 1 or labels.max() > 1000)):
        raise ValueError(f"{path}: labels must be in 1..1000, one for each of {count} images")
    return labels.astype(np.int64) - 1


def _from_npz(files: list[Path]) -> Iterator[np.ndarray]:
    """Yield the images of each file, some at a time, planes of colour brought together."""
    for path in files:
        data = load_npz(path, "data")["data"]
        for start in range(0, len(data), 10_000):
            yield data[start : start + 10_000].reshape(-1, 3, 64, 64).transpose(0, 2, 3, 1)
