"""Embeddings of windows of neighbouring tokens, the masked ones too."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor, nn

from unmask.types import Tokens

ROWS = 2**16
"""Most rows of a table; windows of more kinds share rows."""
LONGEST = 16
"""Tokens of the longest windows that there can be."""
FEATURES = 64
"""Width of a row, before the linear maps to that of the network."""
MULTIPLIER, PRIME = 2_654_435_761, 2**31 - 1
"""Of the hash, of a key k: (k · MULTIPLIER mod PRIME) mod ROWS."""


class NGrams(nn.Module):
    """Embed, for each position of a text, all windows of 2 to `size` tokens that contain it.

        e_i = Σ_n Σ_a W_{n,a} · table_n[hash(x_{i−a}, ..., x_{i−a+n−1})],   2 ≤ n ≤ size,   0 ≤ a < n

    A table for each length of a window, and a linear map for each place of the position in it; a mask, and what is
    outside the text, are tokens like others. A masked position thus looks up what is known next to it: what an n-gram
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
        lengths = range(2, size + 1)
        self.tables = nn.ModuleList(nn.Embedding(min(self.kinds**n, ROWS), FEATURES) for n in lengths)
        self.out = nn.Linear(FEATURES * sum(lengths), width, bias=False)
        self.initialise()

    def initialise(self) -> None:
        """Draw new weights: rows of entries near 0.1, and maps that keep that size, about."""
        for table in self.tables.parameters():
            nn.init.normal_(table, std=0.1)
        nn.init.normal_(self.out.weight, std=0.6 * self.out.in_features**-0.5)

    def forward(self, x_t: Tokens) -> Float[Tensor, "batch length width"]:
        """Return the embeddings of all positions of texts (batch, length)."""
        length, places = x_t.shape[1], []
        for n, (table, keys) in enumerate(zip(self.tables, self.keys(x_t), strict=True), start=2):
            rows = table(keys)
            places += [rows[:, n - 1 - a : n - 1 - a + length] for a in range(n)]
        return self.out(torch.cat(places, -1))

    def keys(self, x_t: Tokens) -> list[Integer[Tensor, "batch _"]]:
        """Return, for each n, the rows of the windows that begin n − 1 tokens before the text, ..., at its end."""
        reach, length = len(self.tables), x_t.shape[1]
        around = F.pad(x_t, (reach, reach), value=self.kinds - 1)
        key, keys = around, []
        for n, table in enumerate(self.tables, start=2):
            key = (key[:, :-1] * self.kinds + around[:, n - 1 :]) % PRIME
            windows = key[:, reach - n + 1 : reach + length]
            whole = table.num_embeddings == self.kinds**n
            keys.append(windows if whole else windows * MULTIPLIER % PRIME % ROWS)
        return keys
