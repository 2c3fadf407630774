"""MNIST: 70,000 handwritten digits of 28x28 grey pixels."""

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from unmask.data.base import Part
from unmask.data.download import fetch
from unmask.data.images import ImageSet, Pictures, held_out
from unmask.data.reading import open_text
from unmask.storage.limits import limit, too_long

HOME = "https://ossci-datasets.s3.amazonaws.com/mnist"
FILES = {  # MD5 of the files, unpacked
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
HELD_OUT = 1000


@dataclass(frozen=True)
class MNIST(ImageSet):
    """MNIST in its own split: 10,000 images to test; of the 60,000 to train the last 1,000 validate.

    Args:
        path: a folder with the four idx files, plain or .gz; downloaded (11 MB) if None. Other images in files of the
            same names and format (Fashion-MNIST, say) will do, and are then not called MNIST in reports.
    """

    path: str | None = None

    @cached_property
    def files(self) -> dict[str, tuple[np.ndarray, str]]:
        """Content and MD5 of each file, read on first use."""
        folder = Path(self.path) if self.path else None
        return {name: read_idx(find(folder, name)) for name in FILES}

    @property
    def name(self) -> str:
        genuine = all(md5 == FILES[name] for name, (_, md5) in self.files.items())
        return "MNIST" if genuine else f"{Path(str(self.path)).resolve().name} (not MNIST)"

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.files["train-images-idx3-ubyte"][0].shape[1:], 1)

    @property
    def classes(self) -> int | None:
        return 10 if self.labels else None

    def pictures(self, part: Part) -> Pictures:
        which = "t10k" if part == "test" else "train"
        x, labels = (self.files[f"{which}-{kind}-ubyte"][0] for kind in ("images-idx3", "labels-idx1"))
        if len(x) != len(labels) or x.ndim != 3 or labels.ndim != 1 or (len(labels) and labels.max() > 9):
            raise ValueError(
                f"{self.path}: {which} images {x.shape} and labels {labels.shape} do not fit together, or a label is "
                "above 9"
            )
        pictures = Pictures(x[..., None], labels)
        return pictures if part == "test" else held_out(pictures, part, HELD_OUT, self.path or "MNIST")


def find(folder: Path | None, name: str) -> Path:
    """Return the place of a file, downloaded if no folder is named."""
    if folder is None:
        return fetch(f"{HOME}/{name}.gz", partial(_check, md5=FILES[name]))
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder}: neither {name} nor {name}.gz is there")


def read_idx(path: Path) -> tuple[np.ndarray, str]:
    """Return the array of an idx file of bytes, plain or .gz, and the MD5 of the unpacked file.

    Raises:
        ValueError: not such a file, one of another length than its header says, or one that unpacks to too much.
    """
    most = limit()
    with open_text(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise too_long(str(path), most)
    if len(content) < 4 or content[:3] != b"\0\0\x08" or content[3] > 3:
        raise ValueError(f"{path}: not an idx file of bytes (it starts with {content[:4]!r})")
    start = 4 + 4 * content[3]
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    if len(content) != start + math.prod(shape):
        raise ValueError(f"{path}: {len(content) - start} values, its header says {' x '.join(map(str, shape))}")
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape), md5


def _check(path: Path, md5: str) -> None:
    found = read_idx(path)[1]
    if found != md5:
        raise ValueError(f"{path.name}: the unpacked file has MD5 {found}, expected {md5}; try again")
