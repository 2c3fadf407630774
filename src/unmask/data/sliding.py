"""Windows of a corpus that overlap, in which what an earlier window had is given."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Integer

from unmask.data.packing import Packed, Shards
from unmask.given import encode_given


class Sliding(Packed):
    """Documents, each with its end, one after another, in windows that overlap: each token is counted once.

    The first window counts all its tokens. Every later one starts `stride` tokens on, counts its last `stride` tokens,
    and is given those before them, so that each token that is counted has at least length − stride tokens before it.
    What is left over is dropped.

    Args:
        shards, first, last, length: see `Packed`.
        stride: in 1..length.

    Raises:
        ValueError: there is not one window, or the stride is out of range.
    """

    def __init__(self, shards: Shards, first: int, last: int, length: int, stride: int) -> None:
        if not 1 <= stride <= length:
            raise ValueError(f"stride must be in 1..{length}, the length of a window; got {stride}")
        self.stride = stride
        super().__init__(shards, first, last, length)

    def __len__(self) -> int:
        return max(0, self.stop - self.start - self.length + self.stride) // self.stride

    def begin(self, i: Any) -> Any:
        return self.start + i * self.stride

    def row(self, i: int) -> Integer[np.ndarray, " length"]:
        at = self.begin(i)
        tokens = np.array(self.shards.read(at, at + self.length), dtype=np.int64)
        if i:
            before = self.length - self.stride
            tokens[:before] = encode_given(tokens[:before])
        return tokens

    def _chunks(self) -> Iterator[bytes]:
        yield from super()._chunks()
        yield f"stride {self.stride}".encode()
