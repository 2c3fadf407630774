"""What the bits of a likelihood are spent on: token by token, and how many bytes of text they are for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.codecs.tokenizer import Tokenizer
from unmask.data.base import Split


@dataclass
class Breakdown:
    """Where the bits go: sums over examples of what each token adds to the negative ELBO.

    Attributes:
        examples: how many have been added.
        by_position: nats at each position, (L,).
        by_value: nats of all tokens of each value, (V,).
        counts: number of tokens of each value, (V,).
    """

    examples: int
    by_position: Float[Tensor, " length"]
    by_value: Float[Tensor, " vocab"]
    counts: Float[Tensor, " vocab"]

    @classmethod
    def empty(cls, length: int, vocab_size: int) -> Breakdown:
        """Return one to which nothing has been added."""
        zeros = [torch.zeros(count, dtype=torch.float64) for count in (length, vocab_size, vocab_size)]
        return cls(0, *zeros)

    def add(self, x: Int[Tensor, "batch length"], parts: Float[Tensor, "batch length"]) -> None:
        """Add examples."""
        flat, nats = x.flatten().cpu(), parts.double().cpu()
        self.examples += len(x)
        self.by_position += nats.sum(0)
        self.by_value.index_add_(0, flat, nats.flatten())
        self.counts += flat.bincount(minlength=len(self.counts))


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
