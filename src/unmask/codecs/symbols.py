"""Integers that are tokens as they are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmask.codecs.base import Codec, check_batch
from unmask.types import Tokens


@dataclass(frozen=True)
class Symbols(Codec):
    """Tokens as they are: any integers 0..V-1.

    Args:
        count: V, number of symbols.

    Examples:
        >>> codec = unmask.Symbols(5)
        >>> codec.encode([3, 1, 4, 1])
        tensor([3, 1, 4, 1])
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
        try:
            data = np.asarray(data)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"tokens must be an array of integers: {error}") from None
        if not np.issubdtype(data.dtype, np.integer):
            raise ValueError(f"tokens must be integers, got {data.dtype}")
        if data.size and (data.min() < 0 or data.max() >= self.count):
            raise ValueError(f"tokens must be in 0..{self.count - 1}, got values from {data.min()} to {data.max()}")
        return torch.from_numpy(data.astype(np.int64))

    def decode(self, x: Tokens) -> np.ndarray:
        """Return the tokens as an array."""
        return check_batch(x, self.count).cpu().numpy()
