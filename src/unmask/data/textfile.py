"""A text file of the user's own."""

import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from unmask.codecs.base import Codec
from unmask.codecs.text import Bytes, Characters
from unmask.data.base import DataSet, Part, Split
from unmask.data.text import EncodedText, check_lengths, cut, encoded


@dataclass(frozen=True)
class TextFile(DataSet):
    """A UTF-8 text, cut by position into 90 % to train, 5 % to validate and 5 % to test.

    Args:
        path: the file, plain or compressed (.gz, .bz2, .xz, .zst, or .zip of one file).
        length: of a sequence, in tokens.
        stride: between the starts of training windows; a 16th of `length` if None.
        tokens: how to cut the text: an alphabet of characters, "bytes", or None to find out: the text's own
            characters if there are at most 256 different ones, else bytes.
    """

    path: str
    length: int = 256
    stride: int | None = None
    tokens: str | None = None

    def __post_init__(self) -> None:
        check_lengths(self.length, self.stride)
        if not self.path:
            raise ValueError("no text was named: give --data.path FILE")

    @cached_property
    def text(self) -> EncodedText:
        """The tokens, read on first use."""
        codec = None if self.tokens is None else Bytes() if self.tokens == "bytes" else Characters(self.tokens)
        text = encoded(Path(self.path), codec)
        if self.tokens is None and isinstance(text.codec, Bytes):
            warnings.warn(
                f"{self.path}: has more than 256 different characters, so its tokens are UTF-8 bytes, not characters; "
                "--data.tokens bytes, or an alphabet, decides it",
                stacklevel=2,
            )
        return text

    @property
    def name(self) -> str:
        return Path(self.path).name

    @property
    def codec(self) -> Codec:
        return self.text.codec

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)

    def split(self, part: Part) -> Split:
        return cut(self.text, part, self.length, self.stride)

    def resolved(self) -> "TextFile":
        return replace(self, tokens=self.codec.alphabet if isinstance(self.codec, Characters) else "bytes")
