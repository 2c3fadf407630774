"""Text as characters of an alphabet, or as bytes."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from unmask.codecs.base import Codec
from unmask.types import Tokens


@dataclass(frozen=True)
class Text(Codec):
    """A codec of texts."""

    @abstractmethod
    def encode(self, data: str) -> Int[Tensor, " length"]:
        """Return the tokens of a text."""

    @abstractmethod
    def decode(self, x: Tokens, unknown: str = "\N{LIGHT SHADE}") -> list[str]:
        """Return one string per example, `unknown` standing for a mask."""

    def symbol(self, token: int) -> str:
        """Return what a single token looks like."""
        return self.decode(torch.tensor([[token]]))[0]


@dataclass(frozen=True)
class Characters(Text):
    """Text over an alphabet: token i is the i-th character.

    Args:
        alphabet: distinct characters, in token order.
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
        points = np.frombuffer(data.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        tokens = self._table[np.minimum(points, len(self._table) - 1)]
        unknown = np.flatnonzero(tokens == self.vocab_size)
        if len(unknown):
            at = int(unknown[0])
            line, column = data.count("\n", 0, at) + 1, at - data.rfind("\n", 0, at)
            raise ValueError(
                f"character {data[at]!r} (U+{points[at]:04X}) at offset {at} (line {line}, column {column}) "
                f"is not in the alphabet {self.alphabet!r}"
            )
        return torch.from_numpy(tokens.astype(np.int64))

    def decode(self, x: Tokens, unknown: str = "\N{LIGHT SHADE}") -> list[str]:
        """Return one string per example, `unknown` standing for a mask."""
        symbols = self.alphabet + unknown
        return ["".join(symbols[i] for i in row) for row in x.tolist()]


@dataclass(frozen=True)
class Bytes(Text):
    """Text as its UTF-8 bytes: token i is the byte i."""

    unit = "byte"

    @property
    def vocab_size(self) -> int:
        return 256

    def encode(self, data: str) -> Int[Tensor, " length"]:
        """Return one token per byte."""
        return torch.tensor(list(data.encode()), dtype=torch.long)

    def decode(self, x: Tokens, unknown: str = "\N{LIGHT SHADE}") -> list[str]:
        """Return one string per example; bytes that are no UTF-8 become U+FFFD, a mask becomes `unknown`."""
        hole = unknown.encode()
        return [b"".join(bytes([i]) if i < 256 else hole for i in row).decode(errors="replace") for row in x.tolist()]
