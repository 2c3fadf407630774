"""Images whose every channel is a token."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from unmask.codecs.base import Codec, check_batch
from unmask.types import Tokens


@dataclass(frozen=True)
class Pixels(Codec):
    """Images (height, width, channels) whose every channel is a token.

    Args:
        levels: number of levels, 2..256.

    Examples:
        >>> codec = unmask.Pixels(levels=3)
        >>> codec.encode(np.array([[[0], [120], [255]]], dtype=np.uint8)).flatten()
        tensor([0, 1, 2])
        >>> codec.decode(torch.tensor([[[[0], [1], [2]]]])).flatten()
        array([  0, 128, 255], dtype=uint8)
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
        if not np.issubdtype(data.dtype, np.integer):
            raise ValueError(f"pixels must be integers in 0..255, got {data.dtype}")
        if data.size and (data.min() < 0 or data.max() > 255):
            raise ValueError(f"pixels must be in 0..255, got values from {data.min()} to {data.max()}")
        return torch.from_numpy((data * ((self.levels - 1) / 255)).round().astype(np.int64))

    def decode(self, x: Tokens) -> UInt8[np.ndarray, "batch *dims"]:
        """Spread the levels over 0..255; a mask becomes 127."""
        grey = np.append(np.linspace(0, 255, self.levels).round(), 127).astype(np.uint8)
        return grey[check_batch(x, self.levels).cpu().numpy()]
