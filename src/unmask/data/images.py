"""Images: what all sets of them share, and a folder or an archive of the user's own."""

import json
import warnings
import zipfile
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer
from tqdm import tqdm

from unmask.codecs.pixels import Pixels
from unmask.data.base import MOST_CLASSES, DataSet, Examples, Joined, Part, Split, shuffled_parts
from unmask.data.picture import describe_size, open_image
from unmask.data.reading import is_hidden, visible_files
from unmask.storage.arrays import read_arrays
from unmask.storage.files import replacing
from unmask.storage.folders import cache_folder
from unmask.types import Labels, Tokens

SUFFIXES = (".png", ".bmp", ".gif", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
PART_NAMES = ("train", "training", "test", "testing", "valid", "val", "validation")
READER = 2
"""Of what images are read as: part of the cache's key."""


class Mirrored(Split):
    """A split twice: its images as they are, then each with left and right exchanged."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return 2 * len(self.split)

    def __getitem__(self, indices: Integer[np.ndarray, " batch"]) -> tuple[Tokens, Labels | None]:
        x, labels = self.split[indices % len(self.split)]
        mirrored = indices >= len(self.split)
        x[mirrored] = x[mirrored].flip(2)
        return x, labels

    def place(self, index: int) -> dict[str, Any]:
        """Return the place of the image, and whether it is mirrored."""
        return self.split.place(index % len(self.split)) | {"mirrored": index >= len(self.split)}

    def _chunks(self) -> Iterator[bytes]:
        yield b"mirrored"
        yield from self.split._chunks()


class Pictures(NamedTuple):
    """Images with the classes they are of.

    Attributes:
        x: uint8 (N, height, width, channels), perhaps a memory map.
        labels: (N,), or None.
        chosen: the images that are meant, in order; None: all.
        class_names: what each class is called, if it has a name.
        parts: the images of each part, where they come with a split of their own.
    """

    x: np.ndarray
    labels: np.ndarray | None
    chosen: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    parts: dict[str, np.ndarray] | None = None


@dataclass(frozen=True)
class ImageSet(DataSet):
    """Settings that all sets of images have.

    Args:
        labels: whether to give the classes; without them the model is unconditional.
        flip: whether training sees every image mirrored too (left and right exchanged).
    """

    labels: bool = False
    flip: bool = False

    @abstractmethod
    def pictures(self, part: Part) -> Pictures:
        """Return the images of a part."""

    @property
    def codec(self) -> Pixels:
        return Pixels(256)

    @cached_property
    def _splits(self) -> dict[Part, Split]:
        return {}

    def split(self, part: Part) -> Split:
        if part not in self._splits and part == "all":
            self._splits[part] = self._all()
        elif part not in self._splits:
            pictures = self.pictures(part)
            split = Examples(pictures.x, pictures.labels if self.labels else None, pictures.chosen)
            self._splits[part] = Mirrored(split) if self.flip and part == "train" else split
        return self._splits[part]

    def _all(self) -> Split:
        """Return the examples of every part, once each and none mirrored."""
        plain = replace(self, flip=False)
        return Joined([plain.split(part) for part in ("train", "valid", "test")])


@dataclass(frozen=True)
class Images(ImageSet):
    """Images of the user's own, split at random, always in the same way, into 90, 5 and 5 %.

    A folder that holds the folders `train` and `test` has a split of its own; `valid`, or a twentieth of `train` drawn
    at random, validates.

    Args:
        path: a folder of image files, all of one size, grey or RGB with 8 bits a channel (with `labels`, one folder
            for each class inside it, or inside train, valid and test); or a .npz file of integers `images`
            (N, height, width, channels), with `labels` (N,) if there are classes.
        levels: number of levels. Files of images are rounded to as many; values in a .npz are the levels themselves.
    """

    path: str = ""
    levels: int = 256

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("no images were named: give --data.path FOLDER, or FILE.npz")
        Pixels(self.levels)  # refuses

    @cached_property
    def all(self) -> Pictures:
        """All images, read on first use."""
        path = Path(self.path)
        if path.is_dir():
            pictures = read_folder(path, Pixels(self.levels), self.labels)
        elif path.suffix.lower() == ".npz":
            pictures = read_npz(path, self.levels)
        else:
            raise FileNotFoundError(f"{path}: no such folder" if not path.exists() else f"{path}: not a folder or .npz")
        if self.labels and pictures.labels is None:
            raise ValueError(f"{path}: no array named 'labels', which --data.labels true asks for")
        if len(pictures.x) < 20 and pictures.parts is None:
            raise ValueError(f"{path}: at least 20 images are needed for three parts, got {len(pictures.x)}")
        return pictures

    @property
    def name(self) -> str:
        return Path(self.path).resolve().name

    @property
    def codec(self) -> Pixels:
        return Pixels(self.levels)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.all.x.shape[1:]

    @property
    def classes(self) -> int | None:
        return 1 + int(self.all.labels.max()) if self.labels and self.all.labels is not None else None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self.all.class_names

    def _all(self) -> Split:
        return Examples(self.all.x, self.all.labels if self.labels else None)  # in the order of the files

    def pictures(self, part: Part) -> Pictures:
        count = len(self.all.x)
        parts = self.all.parts or shuffled_parts(count, valid=count // 20, test=count // 20)
        return self.all._replace(chosen=np.sort(parts[part]))


def held_out(pictures: Pictures, part: Part, count: int, where: object) -> Pictures:
    """Return the images to train on, or the last `count` of them, to validate."""
    x, labels = pictures.x, pictures.labels
    if len(x) <= count:
        raise ValueError(f"{where}: more than {count} training images are needed, got {len(x)}")
    here = slice(len(x) - count) if part == "train" else slice(len(x) - count, None)
    return Pictures(x[here], None if labels is None else labels[here])


def read_folder(folder: Path, codec: Pixels, labelled: bool) -> Pictures:
    """Read all images of a folder, sorted by name; of the folders in it, each a class, if `labelled`.

    They are decoded once, into the cache; names, sizes and times of the files are its key.
    """
    files = [path for path in visible_files(folder) if path.suffix.lower() in SUFFIXES]
    if not files:
        raise ValueError(f"{folder}: no images in it ({', '.join(SUFFIXES)})")
    inside = [path.relative_to(folder).parts[:-1] for path in files]
    parts = None
    if has_split(folder):
        parts = _split_of_folders(folder, inside, labelled)
        inside = [place[1:] for place in inside]
    labels, classes = None, None
    if labelled:
        if () in inside:
            where = files[inside.index(())]
            raise ValueError(f"{where}: an image outside the folders of the classes, one for each")
        classes = sorted({place[0] for place in inside}, key=lambda c: (0, int(c), c) if c.isdecimal() else (1, 0, c))
        labels = np.array([classes.index(place[0]) for place in inside])
        _report_empty([folder / part for part in parts] if parts else [folder], classes)
    key = [READER, codec.levels, *((str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in files)]

    def write(target: Path) -> None:
        first = open_image(files[0], str(files[0]))
        x = np.lib.format.open_memmap(target, "w+", np.uint8, (len(files), *first.shape))
        for i, path in enumerate(tqdm(files, desc=f"reading {folder.name}", unit="image", delay=2)):
            pixels = open_image(path, str(path))
            if pixels.shape != first.shape:
                raise ValueError(
                    f"{path}: the image is {describe_size(pixels)}, but {files[0].name} is {describe_size(first)}; "
                    "all must have one size and number of channels"
                )
            x[i] = codec.encode(pixels).numpy()
        x.flush()

    x = cached_array([str(folder.resolve()), key], write)
    return Pictures(x, labels, None, None if classes is None else tuple(classes), parts)


def _report_empty(folders: list[Path], classes: list[str]) -> None:
    """Warn of folders of classes that hold no image."""
    for folder in folders:
        found = sorted(entry for entry in folder.glob("*") if entry.is_dir() and not is_hidden(entry.name))
        if empty := [str(entry) for entry in found if entry.name not in classes]:
            warnings.warn(
                f"{', '.join(empty)}: no images in it ({', '.join(SUFFIXES)}), so it is not one of the "
                f"{len(classes)} classes",
                stacklevel=3,
            )


def has_split(folder: Path) -> bool:
    """Return whether a folder comes with its own split: with the folders train and test.

    Raises:
        ValueError: it has only one of them, or they go by other names.
    """
    names = {entry.name for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry.name)}
    if {"train", "test"} <= names:
        return True
    if found := sorted(name for name in names if name.lower() in PART_NAMES):
        raise ValueError(
            f"{folder}: holds the folder {found[0]}; a split of its own is in folders named train and test (and "
            "perhaps valid). Name one of its folders, or rename them"
        )
    return False


def _split_of_folders(folder: Path, inside: list[tuple[str, ...]], labelled: bool) -> dict[str, np.ndarray]:
    """Return which images belong to each part, given the folders that each lies in."""
    where = np.array([place[0] if place else "" for place in inside])
    if other := sorted(set(where.tolist()) - {"train", "valid", "test"}):
        what = f"the folder {other[0]}" if other[0] else "images"
        raise ValueError(f"{folder}: holds {what} beside train and test; expected train, test and perhaps valid alone")
    trained = {place[1:2] for place in inside if place[0] == "train"}
    if labelled and (new := sorted(place for place in inside if place[1:2] not in trained)):
        raise ValueError(f"{folder.joinpath(*new[0][:2])}: a class that {folder / 'train'} does not have")
    parts = {part: np.flatnonzero(where == part) for part in ("train", "valid", "test")}
    if not len(parts["valid"]):
        drawn = shuffled_parts(len(parts["train"]), valid=max(1, len(parts["train"]) // 20), test=0)
        parts |= {part: parts["train"][drawn[part]] for part in ("train", "valid")}
    for part, found in parts.items():
        if not len(found):
            raise ValueError(f"{folder / part}: no images in it ({', '.join(SUFFIXES)})")
    return parts


def read_npz(path: Path, levels: int) -> Pictures:
    """Read the arrays `images` and `labels` of a .npz file. Nothing is unpickled."""
    arrays = load_npz(path, "images", "labels")
    if "images" not in arrays:
        raise ValueError(f"{path}: no array named 'images'")
    x, labels = arrays["images"], arrays.get("labels")
    x = x[..., None] if x.ndim == 3 else x
    if x.ndim != 4 or x.shape[3] not in (1, 3) or not x.size or not np.issubdtype(x.dtype, np.integer):
        raise ValueError(
            f"{path}: images must be integers (N, height, width, 1 or 3 channels), got {x.dtype} {x.shape}"
        )
    if x.min() < 0 or x.max() >= levels:
        wrong = int(x.min() if x.min() < 0 else x.max())
        raise ValueError(
            f"{path}: levels must be in 0..{levels - 1}, got {wrong}; --data.levels says how many there are"
        )
    if labels is not None:
        integers = np.issubdtype(labels.dtype, np.integer)
        if labels.shape != x.shape[:1] or not integers or labels.min() < 0 or labels.max() >= MOST_CLASSES:
            values = f", from {labels.min()} to {labels.max()}" if integers and labels.size else ""
            got = f"{labels.dtype} {labels.shape}{values}"
            raise ValueError(f"{path}: labels must be integers from 0, of shape ({len(x)},), got {got}")
        labels = labels.astype(np.int64)
    return Pictures(x.astype(np.uint8), labels)


def load_npz(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Return those of the arrays of a .npz file that are there. Nothing is unpickled.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, or no such archive; names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: damaged, or not a .npz archive")
    return read_arrays(path, names)


def cached_array(key: Any, write: Any) -> np.ndarray:
    """Return a memory map of an array in the cache; `write(path)` makes the .npy file the first time."""
    name = sha256(json.dumps(key).encode()).hexdigest()[:32]
    path = cache_folder() / "images" / f"{name}.npy"
    if path.is_file():
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError):  # damaged: made again
            pass
    with replacing(path) as target:
        write(target)
    return np.load(path, mmap_mode="r", allow_pickle=False)
