"""Separate examples of which some tokens are given, or that have different lengths."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Integer

from unmask.data.base import Examples
from unmask.given import encode_given, mark_given
from unmask.types import Labels, Tokens


class Conditioned(Examples):
    """Separate examples, of which some tokens may be given.

    Args:
        x, labels, chosen: see `Examples`.
        given: (N, *dims), which tokens are given; None: none.
        lengths: (N,), of examples of one dimension: what lies beyond is `fill`, and given; None: all have that of x.
        fill: that token.
    """

    def __init__(
        self,
        x: np.ndarray,
        labels: np.ndarray | None = None,
        chosen: np.ndarray | None = None,
        given: np.ndarray | None = None,
        lengths: np.ndarray | None = None,
        fill: int = 0,
    ) -> None:
        super().__init__(x, labels, chosen)
        self.given, self.lengths, self.fill = given, lengths, fill

    def some(self, chosen: np.ndarray) -> "Conditioned":
        """Return some of the examples."""
        return Conditioned(self.x, self.labels, chosen, self.given, self.lengths, self.fill)

    def __getitem__(self, indices: Integer[np.ndarray, " batch"]) -> tuple[Tokens, Labels | None]:
        x, labels = super().__getitem__(indices)
        rows = self.chosen[indices]
        if self.given is not None:
            x = mark_given(x, torch.from_numpy(self.given[rows]))
        if self.lengths is not None:
            beyond = np.arange(x.shape[1]) >= self.lengths[rows, None]
            x = x.masked_fill(torch.from_numpy(beyond), encode_given(self.fill))
        return x, labels

    def _chunks(self) -> Iterator[bytes]:
        yield from super()._chunks()
        for what in [part for part in (self.given, self.lengths) if part is not None]:
            for start in range(0, len(self), 1 << 12):
                yield np.ascontiguousarray(what[self.chosen[start : start + (1 << 12)]]).astype("<i8").tobytes()


def check_example_lengths(lengths: np.ndarray, x: np.ndarray, what: str, key: str) -> None:
    """Raise a ValueError unless there is one length in 1..L for each example of x (N, L)."""
    if x.ndim != 2:
        raise ValueError(f"{what} are for examples of one dimension, and {key} has the shape {x.shape}")
    if not np.issubdtype(lengths.dtype, np.integer) or lengths.shape != x.shape[:1]:
        raise ValueError(f"{what} must be integers of shape ({len(x)},), got {lengths.dtype} {lengths.shape}")
    wrong = np.flatnonzero((lengths < 1) | (lengths > x.shape[1]))
    if len(wrong):
        at = int(wrong[0])
        raise ValueError(f"{what} must be in 1..{x.shape[1]}, the length of {key}; got {lengths[at]} at index [{at}]")


def check_given(given: np.ndarray, x: np.ndarray, lengths: np.ndarray | None, what: str, key: str) -> None:
    """Raise a ValueError unless flags are of the shape of x, and leave something to learn of every example."""
    if given.dtype != np.bool_ or given.shape != x.shape:
        raise ValueError(f"{what} must be bool of the shape of {key}, {x.shape}; got {given.dtype} {given.shape}")
    all_given = given if lengths is None else given | (np.arange(x.shape[1]) >= lengths[:, None])
    wrong = np.flatnonzero(all_given.reshape(len(x), -1).all(1))
    if len(wrong):
        raise ValueError(f"{what}: every token of example {wrong[0]} is given: there is nothing to learn")
