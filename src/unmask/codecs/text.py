"""Text as characters of an alphabet, or as bytes."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from unmask.codecs.base import Codec, check_batch
from unmask.types import Tokens


class UnknownCharacterError(ValueError):
    """A character that is not in an alphabet, with its place in the text.

    Args:
        character: that is unknown.
        alphabet: that lacks it.
        offset: how many characters come before it.
        line: how many line ends come before it.
        column: how many characters of its line come before it.
    """

    def __init__(self, character: str, alphabet: str, offset: int, line: int, column: int) -> None:
        self.character, self.alphabet, self.place = character, alphabet, (offset, line, column)
        super().__init__(
            f"character {character!r} (U+{ord(character):04X}) at offset {offset} (line {line + 1}, column "
            f"{column + 1}) is not in the alphabet {alphabet!r}"
        )

    def after(self, offset: int, line: int, column: int) -> "UnknownCharacterError":
        """Return the same error with its place in a longer text, of which so much came before."""
        here, down, across = self.place
        across += 0 if down else column
        return UnknownCharacterError(self.character, self.alphabet, offset + here, line + down, across)


class NoTextError(ValueError):
    """There is no text that a codec could be found from."""


@dataclass(frozen=True)
class Text(Codec):
    """A codec of texts.

    Examples:
        >>> codec = unmask.Characters("abc ")  # a text
        >>> codec.unit, codec.symbol(1), codec.pieces()
        ('character', 'b', ['a', 'b', 'c', ' '])
    """

    @abstractmethod
    def encode(self, data: str) -> Int[Tensor, " length"]:
        """Return the tokens of a text."""

    @abstractmethod
    def decode(self, x: Tokens, unknown: str = "\N{LIGHT SHADE}") -> list[str]:
        """Return one string per example, `unknown` standing for a mask."""

    def encode_pieces(self, pieces: Sequence[str]) -> list[Tensor]:
        """Return the tokens of each piece of a text that goes on from piece to piece, with unknown tokens between."""
        return [self.encode(piece) for piece in pieces]

    def symbol(self, token: int) -> str:
        """Return what a single token looks like."""
        return self.decode(torch.tensor([[token]]))[0]

    def pieces(self) -> list[str]:
        """Return the characters that each token adds to a text, U+FFFD for a part of one; none for a special token."""
        return self.decode(torch.arange(self.vocab_size).unsqueeze(1))


@dataclass(frozen=True)
class Characters(Text):
    """Text over an alphabet: token i is the i-th character.

    Args:
        alphabet: distinct characters, in token order.

    Examples:
        >>> codec = unmask.Characters("abcdefghijklmnopqrstuvwxyz ")
        >>> codec.encode("a cat")
        tensor([ 0, 26,  2,  0, 19])
        >>> codec.decode(torch.tensor([[0, 26, 2, 27, 19]]))  # 27 is the mask
        ['a c░t']
    """

    alphabet: str
    unit = "character"

    def __post_init__(self) -> None:
        if not isinstance(self.alphabet, str) or not self.alphabet:
            raise ValueError(f"alphabet must be a non-empty string, got {self.alphabet!r}")
        if len(set(self.alphabet)) < len(self.alphabet):
            twice = next(c for c in self.alphabet if self.alphabet.count(c) > 1)
            raise ValueError(f"alphabet must have distinct characters, {twice!r} is there twice")

    @property
    def vocab_size(self) -> int:
        return len(self.alphabet)

    @cached_property
    def _table(self) -> np.ndarray:
        """Token of each code point; V where there is none."""
        table = np.full(max(map(ord, self.alphabet)) + 2, self.vocab_size, dtype=np.int32)
        table[[ord(c) for c in self.alphabet]] = np.arange(self.vocab_size)
        return table

    def encode(self, data: str) -> Int[Tensor, " length"]:
        """Return one token per character.

        Raises:
            ValueError: a character outside the alphabet; says which, where.
        """
        points = np.frombuffer(check_text(data).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        tokens = self._table[np.minimum(points, len(self._table) - 1)]
        unknown = np.flatnonzero(tokens == self.vocab_size)
        if len(unknown):
            at = int(unknown[0])
            line, column = data.count("\n", 0, at), at - data.rfind("\n", 0, at) - 1
            raise UnknownCharacterError(data[at], self.alphabet, at, line, column)
        return torch.from_numpy(tokens.astype(np.int64))

    def decode(self, x: Tokens, unknown: str = "\N{LIGHT SHADE}") -> list[str]:
        """Return one string per example, `unknown` standing for a mask."""
        symbols = [*self.alphabet, unknown]
        return ["".join(symbols[i] for i in row) for row in check_batch(x, self.vocab_size).tolist()]


@dataclass(frozen=True)
class Bytes(Text):
    """Text as its UTF-8 bytes: token i is the byte i.

    Examples:
        >>> unmask.Bytes().encode("café")
        tensor([ 99,  97, 102, 195, 169])
    """

    unit = "byte"

    @property
    def vocab_size(self) -> int:
        return 256

    def encode(self, data: str) -> Int[Tensor, " length"]:
        """Return one token per byte."""
        try:
            return torch.tensor(list(check_text(data).encode()), dtype=torch.long)
        except UnicodeEncodeError as error:
            raise ValueError(f"not valid Unicode: {error.reason} at character {error.start}") from None

    def decode(self, x: Tokens, unknown: str = "\N{LIGHT SHADE}") -> list[str]:
        """Return one string per example; bytes that are not UTF-8 become U+FFFD, a mask becomes `unknown`."""
        hole, rows = unknown.encode(), check_batch(x, 256).tolist()
        return [b"".join(bytes([i]) if i < 256 else hole for i in row).decode(errors="replace") for row in rows]


def check_text(data: object) -> str:
    """Return a text as it is; raise a ValueError for anything else."""
    if not isinstance(data, str):
        raise ValueError(f"expected a text, got {type(data).__name__}")
    return data
