"""Where many inputs come from: a JSONL file, a folder of images with masks, or an array."""

import json
import math
from abc import ABC, abstractmethod
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from unmask.data.images import SUFFIXES
from unmask.data.reading import check_file, compression, is_hidden
from unmask.storage.arrays import map_array
from unmask.storage.limits import MOST_ROW, limit, too_long

MASK = ".mask"
"""What a mask's name has more than that of its image: x.mask.png for x.png."""


class Source(ABC):
    """Inputs that are read one by one.

    Args:
        path: of the file or folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def folder(self) -> Path:
        """What paths are relative to."""
        return self.path.parent

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def fields(self, index: int) -> dict[str, Any]:
        """Return the fields of an input; see `unmask.infilling.requests`.

        Raises:
            ValueError: it cannot be read.
        """

    def number(self, index: int) -> int:
        """Return the number of an input in the source, from 1."""
        return index + 1

    def name(self, index: int) -> str:
        """Return a name for the files that belong to an input."""
        return str(self.number(index))

    def where(self, index: int) -> str:
        """Return the place of an input, for errors."""
        return f"{self.path}, line {self.number(index)}"


class JsonLines(Source):
    """A file with a JSON object on each line; empty lines are left out, but counted.

    Raises:
        ValueError: a compressed file, or a line that is far too long.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if kind := compression(path):
            raise ValueError(f"{path}: is compressed ({kind}); unpack it first")
        self.starts, self.numbers, most = array("q"), array("q"), limit(MOST_ROW)
        self.file = open(path, "rb")  # noqa: SIM115  # for as long as the source is read
        at = 3 if self.file.read(3) == b"\xef\xbb\xbf" else 0
        self.file.seek(at)
        for number, line in enumerate(iter(lambda: self.file.readline(most + 1), b""), 1):
            if len(line) > most:
                raise too_long(f"{path}, line {number}", most)
            if line.strip():
                self.starts.append(at)
                self.numbers.append(number)
            at += len(line)

    def __len__(self) -> int:
        return len(self.starts)

    def number(self, index: int) -> int:
        """See `Source.number`."""
        return self.numbers[index]

    def fields(self, index: int) -> dict[str, Any]:
        """See `Source.fields`."""
        self.file.seek(self.starts[index])
        try:
            found = json.loads(self.file.readline(), parse_float=_finite, parse_constant=_finite)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not valid JSON: {error}") from None
        if not isinstance(found, dict):
            raise ValueError(f'expected an object such as {{"text": "The [4] is"}}, got {type(found).__name__}')
        return found


def _finite(number: str) -> float:
    """Return a number of JSON; raise a ValueError for NaN, Infinity and what is as large, which results cannot hold."""
    if not math.isfinite(float(number)):
        raise ValueError(f"{number} is no finite number; write null, or a text")
    return float(number)


class ImageFolder(Source):
    """The images of a folder, each with a mask: x.mask.png, white where x.png is unknown.

    Raises:
        ValueError: a mask of no image, or two images of one name.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        names = sorted(file.name for file in path.iterdir() if file.is_file() and not is_hidden(file.name))
        names = [name for name in names if Path(name).suffix.lower() in SUFFIXES]
        masks = {Path(name).stem: name for name in names if Path(name).stem.endswith(MASK)}
        self.images = [name for name in names if Path(name).stem not in masks]
        self.masks = [masks.pop(Path(name).stem + MASK, None) for name in self.images]
        stems = [Path(name).stem for name in self.images]
        if masks:
            raise ValueError(f"{path / min(masks.values())}: a mask, but there is no image of that name")
        if twice := [name for name in self.images if stems.count(Path(name).stem) > 1]:
            raise ValueError(f"{path}: {' and '.join(twice[:2])} would have one name for their results; rename one")

    @property
    def folder(self) -> Path:
        """See `Source.folder`."""
        return self.path

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """See `Source.name`."""
        return Path(self.images[index]).stem

    def where(self, index: int) -> str:
        """See `Source.where`."""
        return str(self.path / self.images[index])

    def fields(self, index: int) -> dict[str, Any]:
        """See `Source.fields`."""
        if self.masks[index] is None:
            raise ValueError(f"has no mask; save one beside it, {self.name(index)}{MASK}.png, white where unknown")
        return {"image": self.images[index], "mask": self.masks[index]}


class ArrayExamples(Source):
    """The examples of a .npy file (N, *dims), -1 where unknown."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        check_file(path)
        self.array = map_array(path)
        if self.array.ndim < 2 or not np.issubdtype(self.array.dtype, np.integer):
            raise ValueError(f"{path}: expected integers (examples, *dims), got {self.array.dtype} {self.array.shape}")

    def __len__(self) -> int:
        return len(self.array)

    def where(self, index: int) -> str:
        """See `Source.where`."""
        return f"{self.path}, example {self.number(index)}"

    def fields(self, index: int) -> dict[str, Any]:
        """See `Source.fields`."""
        return {"array": self.array[index]}


def open_source(path: Path | str) -> Source:
    """Open a folder of images, a .npy file, or a JSONL file.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: nothing is in it, or it is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    source = ImageFolder(path) if path.is_dir() else ArrayExamples(path) if path.suffix == ".npy" else JsonLines(path)
    if not len(source):
        what = "no images" if path.is_dir() else "no examples" if path.suffix == ".npy" else "no lines"
        raise ValueError(f"{path}: there are {what} in it")
    return source
