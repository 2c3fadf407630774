"""Embeddings of windows of neighbouring tokens, the masked ones too."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unmask.types import Tokens

ROWS = 2**16
"""Most rows of a table; windows of more kinds share rows."""
LONGEST = 16
"""Tokens of the longest windows that there can be."""
FEATURES = 32
"""Width of a row, before a linear map to that of the network."""
MULTIPLIER, PRIME = 2_654_435_761, 2**31 - 1
"""Of the hash, of a key k: (k · MULTIPLIER mod PRIME) mod ROWS."""


class NGrams(nn.Module):
    """Embed, for each position of a text, all windows of 2 to `size` tokens that contain it.

        e_i = Σ_windows W · table[hash(x_{i−a}, ..., x_{i+b})],   2 ≤ a + b + 1 ≤ size

    A table for each place of the window around the position; a mask, and what is outside the text, are tokens like
    others. A masked position thus looks up what is known next to it, at the cost of no matrix product: what an n-gram
    model counts is learned in the first few hundred steps. (For inputs of language models: over-tokenised transformers,
    arXiv:2501.16975.)

    Args:
        vocab_size: V, number of token values.
        size: tokens of the longest windows, 2 to 16.
        width: of the network.

    Raises:
        ValueError: the size is less than 2 or more than 16.
    """

    def __init__(self, vocab_size: int, size: int, width: int) -> None:
        super().__init__()
        if not 2 <= size <= LONGEST:
            raise ValueError(f"ngrams must be 2 to {LONGEST}, tokens of the longest windows, or 0 for none; got {size}")
        self.kinds = vocab_size + 2  # with the mask, V, and the outside, V + 1
        self.windows = [(start, n) for n in range(2, size + 1) for start in range(1 - n, 1)]
        self.tables = nn.ModuleList(nn.Embedding(min(self.kinds**n, ROWS), FEATURES) for _, n in self.windows)
        self.out = nn.Linear(FEATURES * len(self.windows), width, bias=False)
        self.initialise()

    def initialise(self) -> None:
        """Draw new weights: rows of entries near 0.1, and a map that keeps that size, about."""
        for table in self.tables.parameters():
            nn.init.normal_(table, std=0.1)
        nn.init.normal_(self.out.weight, std=0.6 * self.out.in_features**-0.5)

    def forward(self, x_t: Tokens) -> Float[Tensor, "batch length width"]:
        """Return the embeddings of all positions of texts (batch, length)."""
        return self.out(torch.cat([table(keys) for table, keys in zip(self.tables, self.keys(x_t), strict=True)], -1))

    def keys(self, x_t: Tokens) -> list[Tokens]:
        """Return the row of each position, in every table."""
        reach, length = self.windows[-1][1] - 1, x_t.shape[1]
        around = F.pad(x_t, (reach, reach), value=self.kinds - 1)
        keys = []
        for start, n in self.windows:
            key = torch.zeros_like(x_t)
            for offset in range(reach + start, reach + start + n):
                key = (key * self.kinds + around[:, offset : offset + length]) % PRIME
            keys.append(key if self.kinds**n <= ROWS else key * MULTIPLIER % PRIME % ROWS)
        return keys
