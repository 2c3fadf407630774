"""The Python language reference, which every Python carries in its standard library."""

import hashlib
import sys
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from unmask.codecs.text import Characters
from unmask.data.base import DataSet, Part, Split, Windows
from unmask.data.text import check_lengths


@dataclass(frozen=True)
class PyDocs(DataSet):
    """The topics of Python's built-in help (`pydoc_data.topics`), about half a million characters.

    Whole topics go to train, valid and test (about 90, 5 and 5 %) by the hash of their name, so a topic stays where
    it is when Python's version changes its text. The text, and so the checksum, depends on that version.

    Args:
        length: of a sequence, in characters.
        stride: between the starts of training windows; a 16th of `length` if None.
    """

    length: int = 256
    stride: int | None = None

    def __post_init__(self) -> None:
        check_lengths(self.length, self.stride)

    @cached_property
    def _topics(self) -> dict[str, str]:
        from pydoc_data.topics import topics

        return topics

    @property
    def name(self) -> str:
        return f"PyDocs of Python {sys.version_info.major}.{sys.version_info.minor}"

    @property
    def codec(self) -> Characters:
        return Characters("".join(sorted(set("".join(self._topics.values())))))

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)

    def split(self, part: Part) -> Split:
        text = "\n\n".join(text for name, text in sorted(self._topics.items()) if part in ("all", _part_of(name)))
        tokens = self.codec.encode(text).numpy().astype(np.uint8)
        return Windows(
            tokens, self.length, (self.stride or max(1, self.length // 16)) if part == "train" else self.length
        )


def _part_of(name: str) -> Part:
    bucket = hashlib.sha256(name.encode()).digest()[0] * 100 // 256
    return "test" if bucket < 5 else "valid" if bucket < 10 else "train"
