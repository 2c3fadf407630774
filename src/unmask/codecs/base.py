"""What a codec is: between data as people see it and tokens 0..V-1. It is saved with the model."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from unmask.types import Allowed, Tokens


@dataclass(frozen=True)
class Codec(ABC):
    """Turn data into tokens and back.

    Attributes:
        vocab_size: V, number of token values. The value V itself stands for an unknown token.
        unit: what one token is called in reports, such as "character".
        wrap: tokens that every example begins with and ends with, such as those of [CLS] and [SEP]; for most codecs
            none.
        padding: the token that fills examples up; None: none is for that alone.
        allowed: which tokens each position can have, so that samples have no others; None: all.

    Examples:
        >>> class Compass(unmask.Codec):
        ...     arrows = "↑→↓←"
        ...     @property
        ...     def vocab_size(self):
        ...         return len(self.arrows)
        ...     def encode(self, data):
        ...         return torch.tensor([self.arrows.index(arrow) for arrow in data])
        ...     def decode(self, x):
        ...         return ["".join((self.arrows + "?")[i] for i in row) for row in x.tolist()]
        >>> Compass().decode(torch.tensor([[0, 1, 4, 3]]))
        ['↑→?←']
    """

    unit = "token"

    @property
    def wrap(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens that every example begins with, and tokens that it ends with."""
        return (), ()

    @property
    def padding(self) -> int | None:
        """The token that fills examples up."""
        return None

    @property
    def allowed(self) -> Allowed | None:
        """Which tokens each position can have (*dims, V); None: all."""
        return None

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

    def wrapped(self, tokens: Int[Tensor, " length"]) -> Int[Tensor, " longer"]:
        """Return the tokens of an example between those of `wrap`."""
        before, after = (torch.tensor(part, dtype=torch.long, device=tokens.device) for part in self.wrap)
        return torch.cat((before, tokens, after))

    def unwrapped(self, row: Int[Tensor, " length"]) -> Int[Tensor, " shorter"]:
        """Return an example without padding at its end, and without the tokens of `wrap` around it, as far as there."""
        tokens, (before, after) = row.tolist(), map(list, self.wrap)
        stop = len(tokens)
        while self.padding is not None and stop and tokens[stop - 1] == self.padding:
            stop -= 1
        start = len(before) if tokens[: min(len(before), stop)] == before else 0
        if after and stop - start >= len(after) and tokens[stop - len(after) : stop] == after:
            stop -= len(after)
        return row[start:stop]

    def saved(self, folder: Path) -> "Codec":
        """Write what the codec needs besides its arguments into a model's folder; return the codec as it is there."""
        return self

    def opened(self, folder: Path) -> "Codec":
        """Return the codec of a model's folder, ready to be used from anywhere."""
        return self


def check_batch(x: Any, vocab_size: int) -> Tokens:
    """Return a batch of tokens as it is; raise a ValueError unless it is one, of the values 0..V."""
    if not isinstance(x, Tensor):
        raise ValueError(f"expected a tensor of tokens (batch, *dims), got {type(x).__name__}; torch.tensor makes one")
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise ValueError(f"tokens must be integers, got {x.dtype}")
    if x.dim() < 2:
        raise ValueError(f"expected a batch of examples (batch, *dims), got {tuple(x.shape)}; x[None] makes one")
    if x.numel() and not 0 <= int(x.min()) <= int(x.max()) <= vocab_size:
        raise ValueError(f"tokens must be in 0..{vocab_size}, got values from {int(x.min())} to {int(x.max())}")
    return x
