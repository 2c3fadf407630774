"""Codecs: between data as people see it and tokens 0..V-1. A codec is saved with the model."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from unmask.types import Tokens


@dataclass(frozen=True)
class Codec(ABC):
    """Turn data into tokens and back.

    Attributes:
        vocab_size: V, number of token values. The value V itself stands for an unknown token.
        unit: what one token is called in reports, such as "character".
    """

    unit = "token"

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """V, number of token values."""

    @abstractmethod
    def encode(self, data: Any) -> Tensor:
        """Return the tokens of one example."""

    @abstractmethod
    def decode(self, x: Tokens) -> Any:
        """Return the data of a batch of examples."""

    def saved(self, folder: Path) -> "Codec":
        """Write what the codec needs besides its arguments into a model's folder; return the codec as it is there."""
        return self

    def opened(self, folder: Path) -> "Codec":
        """Return the codec of a model's folder, ready to be used from anywhere."""
        return self


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


@dataclass(frozen=True)
class Pixels(Codec):
    """Images (height, width, channels) whose every channel is a token.

    Args:
        levels: number of levels, 2..256.
    """

    levels: int = 256
    unit = "dimension"

    def __post_init__(self) -> None:
        if not 2 <= self.levels <= 256:
            raise ValueError(f"levels must be in 2..256, got {self.levels}")

    @property
    def vocab_size(self) -> int:
        return self.levels

    def encode(self, data: UInt8[np.ndarray, "*dims"]) -> Int[Tensor, "*dims"]:
        """Turn 8-bit values into the nearest levels; undoes `decode`."""
        data = np.asarray(data)
        if data.size and (data.min() < 0 or data.max() > 255):
            raise ValueError(f"pixels must be in 0..255, got values from {data.min()} to {data.max()}")
        return torch.from_numpy((data * ((self.levels - 1) / 255)).round().astype(np.int64))

    def decode(self, x: Tokens) -> UInt8[np.ndarray, "batch *dims"]:
        """Spread the levels over 0..255; a mask becomes 127."""
        grey = np.append(np.linspace(0, 255, self.levels).round(), 127).astype(np.uint8)
        return grey[x.cpu().numpy()]


@dataclass(frozen=True)
class Symbols(Codec):
    """Tokens as they are: any integers 0..V-1.

    Args:
        count: V, number of symbols.
    """

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")

    @property
    def vocab_size(self) -> int:
        return self.count

    def encode(self, data: Any) -> Tensor:
        """Return the integers as tokens."""
        data = np.asarray(data)
        if not np.issubdtype(data.dtype, np.integer):
            raise ValueError(f"tokens must be integers, got {data.dtype}")
        if data.size and (data.min() < 0 or data.max() >= self.count):
            raise ValueError(f"tokens must be in 0..{self.count - 1}, got values from {data.min()} to {data.max()}")
        return torch.from_numpy(data.astype(np.int64))

    def decode(self, x: Tokens) -> np.ndarray:
        """Return the tokens as an array."""
        return x.cpu().numpy()
