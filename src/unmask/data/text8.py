"""text8: the first 100,000,000 characters of a cleaned English Wikipedia, over a to z and the space."""

import hashlib
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from unmask.codecs.text import Characters
from unmask.data.base import DataSet, Part, Split
from unmask.data.download import fetch
from unmask.data.reading import open_text
from unmask.data.text import EncodedText, check_lengths, cut, encoded

HOME = "https://mattmahoney.net/dc/text8.zip"
SIZE = 31_344_016
MD5 = "3bea1919949baf155f99411df5fada7e"  # of the text, uncompressed
ALPHABET = " abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Text8(DataSet):
    """text8 in the usual split: 90, 5 and 5 million characters to train, validate and test.

    Args:
        path: text8.zip, or its text, plain or compressed (.gz, .bz2, .xz, .zst); downloaded from its home (31 MB) if
            None. Any text of the same 27 characters will do, and is then not called text8 in reports.
        length: of a sequence; the papers use 256.
        stride: between the starts of training windows; a 16th of `length` if None.
    """

    path: str | None = None
    length: int = 256
    stride: int | None = None

    def __post_init__(self) -> None:
        check_lengths(self.length, self.stride)

    @cached_property
    def text(self) -> EncodedText:
        """The tokens, read on first use."""
        return encoded(Path(self.path) if self.path else download(), self.codec)

    @property
    def name(self) -> str:
        return "text8" if self.text.md5 == MD5 else f"{Path(str(self.path)).name} (not text8)"

    @property
    def codec(self) -> Characters:
        return Characters(ALPHABET)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)

    def split(self, part: Part) -> Split:
        return cut(self.text, part, self.length, self.stride)


def download(url: str = HOME, size: int = SIZE, md5: str = MD5) -> Path:
    """Fetch text8.zip into the cache, once, and verify its size and the MD5 of its text.

    Raises:
        ConnectionError: the file cannot be had.
        ValueError: the size or the checksum is wrong; nothing is kept.
    """
    return fetch(url, partial(verify, md5=md5), size)


def verify(path: Path, md5: str) -> None:
    """Raise a ValueError unless the text of a downloaded archive has the right MD5."""
    with open_text(path) as file:
        digest = hashlib.md5(usedforsecurity=False)
        while piece := file.read(1 << 20):
            digest.update(piece)
        found = digest.hexdigest()
    if found != md5:
        raise ValueError(f"text8.zip: the text has MD5 {found}, expected {md5}; the download is damaged")
