"""A character n-gram model: an independent judge of samples, and a figure to beat."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Integer

from unmask.types import Nats, Tokens

LARGEST = 50_000_000
"""Most counts that are kept."""


@dataclass(frozen=True)
class NGram:
    """p(c | the order - 1 tokens before), with Witten-Bell smoothing; dims in row-major order.

    Each order is interpolated with the next lower one: p_n(c | h) = (count(h c) + kinds(h) p_{n-1}(c | h')) / (count(h)
    + kinds(h)), where kinds(h) is the number of different tokens seen after h.

    Attributes:
        tables: of each order n from 1 on, p(c | h) for every history h of n - 1 tokens: (V^(n-1), V).
    """

    tables: tuple[np.ndarray, ...]

    @classmethod
    def fit(cls, sequences: Iterable[Integer[np.ndarray, "n length"]], vocab_size: int, order: int) -> "NGram":
        """Count the n-grams of some sequences; none crosses from one to the next.

        Raises:
            ValueError: order below 1, or more than 50 million counts.
        """
        if order < 1:
            raise ValueError(f"the order of an n-gram model must be at least 1, got {order}")
        if vocab_size**order > LARGEST:
            raise ValueError(
                f"an n-gram model of order {order} over {vocab_size} tokens has {vocab_size**order:,} counts, "
                f"more than {LARGEST:,}: choose a smaller order"
            )
        counts = [np.zeros(vocab_size**n, dtype=np.int64) for n in range(1, order + 1)]
        for part in sequences:
            for n in range(1, min(order, part.shape[1]) + 1):
                counts[n - 1] += np.bincount(codes(part, n, vocab_size).ravel(), minlength=vocab_size**n)
        tables = []
        lower = np.full((1, vocab_size), 1 / vocab_size)
        for n in range(1, order + 1):
            here = counts[n - 1].reshape(-1, vocab_size)
            kinds = np.count_nonzero(here, axis=1)[:, None]
            backed_off = np.tile(lower, (len(here) // len(lower), 1))
            total = here.sum(1, keepdims=True) + kinds
            lower = np.where(total > 0, (here + kinds * backed_off) / np.maximum(total, 1), backed_off)
            tables.append(lower)
        return cls(tuple(tables))

    def nll(self, x: Tokens) -> Nats:
        """Return -log p(x) of each example in nats; its first tokens have the shorter histories that there are."""
        tokens = x.flatten(1).cpu().numpy()
        vocab, order = self.tables[0].shape[1], len(self.tables)
        total = np.zeros(len(tokens))
        for n in range(1, order + 1):
            here = tokens[:, :n] if n < order else tokens
            if n <= tokens.shape[1]:
                total -= np.log(self.tables[n - 1].reshape(-1)[codes(here, n, vocab)]).sum(1)
        return torch.from_numpy(total)


def codes(tokens: Integer[np.ndarray, "n length"], order: int, vocab_size: int) -> Integer[np.ndarray, "n windows"]:
    """Return the number of every window of `order` tokens in base `vocab_size`."""
    windows = tokens.shape[1] - order + 1
    result = np.zeros((len(tokens), windows), dtype=np.int64)
    for i in range(order):
        result = result * vocab_size + tokens[:, i : windows + i]
    return result
