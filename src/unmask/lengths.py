"""How long the examples of a model are, where they are filled up to one length with a token that is given."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.types import Tokens


@dataclass(frozen=True)
class Lengths:
    """p(n), the distribution of the number n of tokens before an example is filled up; the model is p(n) p(x | n).

    Args:
        fill: the token that every example is filled up with; given, never learned.
        counts: number of training examples of 1, 2, ..., L tokens.

    Raises:
        ValueError: there are no examples, or a count is negative.
    """

    fill: int
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if not all(isinstance(count, int) and count >= 0 for count in self.counts) or not any(self.counts):
            raise ValueError("lengths need counts of at least 0, and one that is positive")

    @classmethod
    def read(cls, described: Any) -> "Lengths | None":
        """Return the lengths that a model's `about` describes; None where it describes none.

        Raises:
            ValueError: a description of another form.
        """
        if described is None:
            return None
        try:
            return cls(int(described["fill"]), tuple(described["counts"]))
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"about.lengths: expected the fill token and counts, got {described!r:.60}") from error

    def describe(self) -> dict[str, Any]:
        """Return what `read` reads, as plain values."""
        return {"fill": self.fill, "counts": list(self.counts)}

    def draw(self, u: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
        """Draw a length for each uniform number in [0, 1), by inverting the distribution function."""
        cumulative = torch.tensor(self.counts, dtype=torch.float64, device=u.device).cumsum(0)
        return 1 + torch.searchsorted(cumulative, u.double() * cumulative[-1], right=True)

    def canvas(self, n: Int[Tensor, " batch"], mask_id: int) -> Tokens:
        """Return examples (batch, L) of which the first n tokens are masked, and the others filled up."""
        position = torch.arange(len(self.counts), device=n.device)
        return torch.where(position < n.unsqueeze(1), mask_id, self.fill)

    def cut(self, row: Int[Tensor, " length"]) -> Int[Tensor, " shorter"]:
        """Return an example without what it is filled up with at its end."""
        kept = (row != self.fill).nonzero()
        return row[: int(kept[-1]) + 1] if len(kept) else row[:0]
