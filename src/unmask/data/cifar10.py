"""CIFAR-10: 60,000 colour photographs of 32x32 pixels in 10 classes."""

import tarfile
import zlib
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from unmask.codecs.pixels import Pixels
from unmask.data.base import Part
from unmask.data.download import check_md5, fetch
from unmask.data.images import ImageSet, Pictures, has_split, held_out, read_folder
from unmask.data.parquet import parquet_files, read_parquet
from unmask.data.reading import check_file, is_hidden, visible_files
from unmask.storage.limits import check_size
from unmask.storage.pickled import read_pickle

HOME = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
SHAPE = (32, 32, 3)
HELD_OUT = 1000
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN = [f"data_batch_{i}" for i in range(1, 6)]
MOST_BATCH = 1 << 30
"""Bytes of a batch that are read; one of CIFAR-10 has 31 MB."""
FORMS = (
    "the binary or the Python version (a folder, or its .tar.gz), the Hub's Parquet files, or images in the folders "
)
FORMS += "train/CLASS and test/CLASS (else --data Images)"


@dataclass(frozen=True)
class CIFAR10(ImageSet):
    """CIFAR-10 in its own split: 10,000 images to test; of the 50,000 to train the last 1,000 validate.

    Args:
        path: the binary or the Python version, as a .tar.gz or a folder; a folder of the Hub's Parquet files; or images
            in folders train/CLASS and test/CLASS, where a twentieth of train, drawn at random, validates (they are in
            the order of the classes). The binary version is downloaded (170 MB) if None. The Python version is read
            without running its pickles.
    """

    path: str | None = None

    @cached_property
    def _parts(self) -> dict[str, Pictures]:
        path = Path(self.path) if self.path else fetch(HOME, partial(check_md5, md5=MD5))
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")
        if path.is_dir() and parquet_files(path, "train"):
            return {part: _from_parquet(path, part) for part in ("train", "test")}
        if path.is_dir() and has_split(path):
            return _from_images(path)
        files = _from_folder(path) if path.is_dir() else _from_archive(path)
        missing = [name for name in (*TRAIN, "test_batch") if name not in files]
        if missing:
            raise ValueError(f"{path}: {missing[0]} is missing; expected {FORMS}")
        read = {name: _batch(content, f"{path}: {name}") for name, content in files.items()}
        x, labels = (np.concatenate([np.asarray(read[name][i]) for name in TRAIN]) for i in (0, 1))
        train = Pictures(x, labels)
        return {"train": train, "test": read["test_batch"]}

    @property
    def name(self) -> str:
        if self.path is None:
            return "CIFAR-10"
        if "valid" in self._parts:
            parts = self._parts["train"].parts or {}
            counts = (len(parts["train"]) + len(parts["valid"]), len(parts["test"]))
        else:
            counts = (len(self._parts["train"].x), len(self._parts["test"].x))
        what = "CIFAR-10, not verified" if counts == (50_000, 10_000) else "not CIFAR-10"
        return f"{Path(self.path).resolve().name} ({what})"

    @property
    def shape(self) -> tuple[int, ...]:
        return SHAPE

    @property
    def classes(self) -> int | None:
        return 10 if self.labels else None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return CLASSES if self.labels else None

    def pictures(self, part: Part) -> Pictures:
        if part in self._parts and (part == "test" or "valid" in self._parts):
            return self._parts[part]
        return held_out(self._parts["train"], part, HELD_OUT, self.path or "CIFAR-10")


def _from_folder(path: Path) -> dict[str, bytes]:
    found = {f.name.removesuffix(".bin"): f for f in visible_files(path) if "_batch" in f.name}
    return {name: found[name].read_bytes() for name in (*TRAIN, "test_batch") if name in found}


def _from_archive(path: Path) -> dict[str, bytes]:
    check_file(path)
    found = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).name.removesuffix(".bin")
                if name not in (*TRAIN, "test_batch") or any(map(is_hidden, Path(member.name).parts)):
                    continue
                check_size(member.size, f"{path}: {name}", MOST_BATCH)
                if (file := archive.extractfile(member)) is not None:
                    found[name] = file.read()
    except (tarfile.TarError, EOFError, OSError, KeyError, zlib.error) as error:
        raise ValueError(
            f"{path}: damaged or truncated archive, or none ({error}); expected {FORMS}; other images: --data Images"
        ) from None
    return found


def _batch(content: bytes, name: str) -> Pictures:
    """Read a batch of the Python version, which starts as pickles do, or of the binary version."""
    if content[:1] == b"\x80":
        labels, planes = _from_pickle(content, name)
    else:
        size = 1 + 3 * 32 * 32
        if not content or len(content) % size:
            raise ValueError(f"{name}: {len(content)} bytes are no multiple of {size}: truncated, or not CIFAR-10")
        rows = np.frombuffer(content, np.uint8).reshape(-1, size)
        labels, planes = rows[:, 0], rows[:, 1:]
    if labels.size and (labels.min() < 0 or labels.max() > 9):
        raise ValueError(f"{name}: labels must be in 0..9, got {labels.max()}: not CIFAR-10")
    return Pictures(np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels)


def _from_pickle(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    batch = read_pickle(content, name)
    try:
        batch = {_text(key): value for key, value in batch.items()}
        _, _, _, fortran, raw = batch["data"].state[0]
        raw = raw.encode("latin-1") if isinstance(raw, str) else raw
        planes, labels = np.frombuffer(raw, np.uint8).reshape(-1, 3072), np.array(batch["labels"], dtype=np.int64)
    except (AttributeError, KeyError, IndexError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: not a batch of CIFAR-10, of `data` and `labels`: {error}") from None
    if fortran or len(planes) != len(labels):
        raise ValueError(f"{name}: truncated, or not CIFAR-10: {len(planes)} images and {len(labels)} labels")
    return labels, planes


def _text(key: object) -> object:
    return key.decode() if isinstance(key, bytes) else key


def _from_parquet(folder: Path, part: str) -> Pictures:
    files = parquet_files(folder, part)
    if not files:
        raise ValueError(f"{folder}: no {part}-*.parquet there")
    x, labels = zip(*read_parquet(files, SHAPE, 10), strict=True)
    return Pictures(np.stack(x), np.asarray(labels))


def _from_images(folder: Path) -> dict[str, Pictures]:
    pictures = read_folder(folder, Pixels(256), labelled=True)
    if pictures.x.shape[1:] != SHAPE or pictures.class_names != CLASSES:
        height, width, channels = pictures.x.shape[1:]
        raise ValueError(
            f"{folder}: not CIFAR-10 as images: expected 32x32x3 in {', '.join(CLASSES)}, got "
            f"{height}x{width}x{channels} in {', '.join(pictures.class_names or ())}; other images: --data Images"
        )
    return {part: pictures._replace(chosen=np.sort(chosen)) for part, chosen in (pictures.parts or {}).items()}
