"""What the bits of a likelihood are spent on: token by token, and how many bytes of text they are for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.codecs.tokenizer import Tokenizer
from unmask.data.base import Split


@dataclass
class Breakdown:
    """Where the bits go: sums over examples of what each token adds to the negative ELBO. Given tokens do not count.

    Attributes:
        by_position: nats at each position, (L,).
        by_value: nats of all tokens of each value, (V,).
        positions: number of tokens at each position, (L,).
        values: number of tokens of each value, (V,).
    """

    by_position: Float[Tensor, " length"]
    by_value: Float[Tensor, " vocab"]
    positions: Float[Tensor, " length"]
    values: Float[Tensor, " vocab"]

    @classmethod
    def empty(cls, length: int, vocab_size: int) -> Breakdown:
        """Return one to which nothing has been added."""
        return cls(*(torch.zeros(count, dtype=torch.float64) for count in (length, vocab_size, length, vocab_size)))

    def add(
        self,
        x: Int[Tensor, "batch length"],
        parts: Float[Tensor, "batch length"],
        counted: Bool[Tensor, "batch length"],
    ) -> None:
        """Add examples.

        Args:
            x: tokens.
            parts: what each adds, 0 for one that is given.
            counted: which are not given.
        """
        x, nats, counted = x.cpu(), parts.double().cpu(), counted.cpu()
        self.by_position += nats.sum(0)
        self.by_value.index_add_(0, x.flatten(), nats.flatten())
        self.positions += counted.sum(0)
        self.values += x[counted].bincount(minlength=len(self.values))

    def mean_bits(self) -> tuple[Float[Tensor, " length"], Float[Tensor, " vocab"]]:
        """Return the mean bits of a token at each position, and of a token of each value; 0 where there is none."""
        position, value = self.by_position / self.positions.clamp(min=1), self.by_value / self.values.clamp(min=1)
        return position / math.log(2), value / math.log(2)


def text_bytes(split: Split, codec: Tokenizer, limit: int | None = None) -> Int[Tensor, " n"]:
    """Return the number of UTF-8 bytes of each example: of its text without what is given and without special tokens.

    Bits per byte can be compared between tokenizers. A character that a sequence ends within counts as the three bytes
    of U+FFFD.
    """
    special, counts = torch.tensor(codec.special, dtype=torch.long), []
    for x, _ in split.batches(64, limit):
        for row in x:
            text = row[(row >= 0) & ~torch.isin(row, special)]
            counts.append(len(codec.decode(text.unsqueeze(0))[0].encode()) if len(text) else 0)
    return torch.tensor(counts)
