"""How long the examples of a model are, where they are filled up to one length with a token that is given."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Integer
from torch import Tensor

from unmask.given import encode_given
from unmask.types import Labels, Tokens, Where


@dataclass(frozen=True)
class Lengths:
    """p(n | class), the distribution of the number n of tokens of an example before it is filled up.

    The model is p(n) p(x | n), and its bound −log p(n) plus the bound on −log p(x | n). p(n) is the histogram of the
    training examples, smoothed by a box whose width is chosen by leave-one-out likelihood, with one example's weight on
    all lengths alike, so that no length is impossible:

        p(n) = (Σ_i K_h(n, n_i) + 1 / L) / (N + 1)

    Args:
        fill: the token that every example is filled up with; given, never learned.
        counts: number of training examples with n = 1, 2, ..., L.
        by_class: the same for each class, if there are classes.
        targets: whether n counts the tokens that are learned alone, not those that are given before them: p(n) is then
            the distribution of the length of an answer, whatever the question.
        ended: whether an example that is filled up ends with the token `fill` itself, which is learned: texts that end
            with the token that also fills up.
        apart: whether the token `fill` is never part of an example, so that it must not be drawn as one.

    Raises:
        ValueError: there are no examples, a count is negative, or the classes have counts of other lengths.
    """

    fill: int
    counts: tuple[int, ...]
    by_class: tuple[tuple[int, ...], ...] | None = None
    targets: bool = False
    ended: bool = False
    apart: bool = False

    def __post_init__(self) -> None:
        for counts in (self.counts, *(self.by_class or ())):
            if not all(isinstance(count, int) and count >= 0 for count in counts) or len(counts) != len(self.counts):
                raise ValueError("lengths need counts of at least 0, of as many lengths for every class")
        if not any(self.counts):
            raise ValueError("lengths need one count that is positive")

    @classmethod
    def of(
        cls,
        n: Integer[np.ndarray, " examples"],
        length: int,
        fill: int,
        *,
        labels: Integer[np.ndarray, " examples"] | None = None,
        classes: int | None = None,
        targets: bool = False,
        ended: bool = False,
        apart: bool = False,
    ) -> "Lengths":
        """Count the lengths of training examples.

        Args:
            n: of each example, in 1..length.
            length: L, of the filled-up examples.
            fill, targets, ended, apart: see the class.
            labels: class of each example.
            classes: their number.
        """

        def count(some: np.ndarray) -> tuple[int, ...]:
            return tuple(np.bincount(some, minlength=length + 1)[1:].tolist())

        by_class = None if labels is None else tuple(count(n[labels == i]) for i in range(classes or 0))
        return cls(fill, count(n), by_class, targets, ended, apart)

    @classmethod
    def read(cls, described: Any) -> "Lengths | None":
        """Return the lengths that a model's `about` describes; None where it describes none.

        Raises:
            ValueError: a description of another form.
        """
        if described is None:
            return None
        try:
            by_class = described.get("by_class")
            by_class = None if by_class is None else tuple(map(tuple, by_class))
            flags = (bool(described.get(name)) for name in ("targets", "ended", "apart"))
            return cls(int(described["fill"]), tuple(described["counts"]), by_class, *flags)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ValueError(f"about.lengths: expected the fill token and counts, got {described!r:.60}") from error

    def describe(self) -> dict[str, Any]:
        """Return what `read` reads, as plain values."""
        by_class = None if self.by_class is None else [list(counts) for counts in self.by_class]
        counted = {"fill": self.fill, "counts": list(self.counts), "by_class": by_class}
        return counted | {"targets": self.targets, "ended": self.ended, "apart": self.apart}

    @cached_property
    def _probabilities(self) -> Float64[Tensor, "classes_and_all length"]:
        """p(n | class) of each class, then p(n)."""
        return torch.stack([_smoothed(counts) for counts in (*(self.by_class or ()), self.counts)])

    def _rows(self, count: int, label: Labels | None) -> Float64[Tensor, "batch length"]:
        """Return p(n | class) of each example; p(n) for one of no class."""
        table = self._probabilities if label is None else self._probabilities.to(label.device)
        if label is None or self.by_class is None:
            return table[-1].expand(count, -1)
        return table[label]

    def measure(self, x: Int[Tensor, "batch length"]) -> Int[Tensor, " batch"]:
        """Return n of examples in which what is given, the filling among it, is encoded (`unmask.given`)."""
        if self.targets:
            return (x >= 0).sum(1)
        filled = x == encode_given(self.fill)
        return x.shape[1] - filled.flip(1).long().cumprod(1).sum(1)

    def filled(self, x: Tokens) -> Where:
        """Return which tokens of clean examples (batch, L) are what they are filled up with."""
        count = (x == self.fill).flip(1).long().cumprod(1).sum(1) - int(self.ended)
        return torch.arange(x.shape[1], device=x.device) >= x.shape[1] - count.unsqueeze(1).clamp(min=0)

    def log_p(self, n: Int[Tensor, " batch"], label: Labels | None = None) -> Float64[Tensor, " batch"]:
        """Return log p(n | class), in nats; −inf for a length that examples cannot have."""
        rows = self._rows(len(n), label).to(n.device)
        inside = (n >= 1) & (n <= rows.shape[1])
        found = rows.log().gather(1, n.clamp(1, rows.shape[1]).unsqueeze(1) - 1).squeeze(1)
        return found.masked_fill(~inside, -torch.inf)

    def log_share(self, first: int, last: int, count: int, label: Labels | None = None) -> Float64[Tensor, " batch"]:
        """Return log p(first ≤ n ≤ last | class) of each of `count` examples."""
        return self._rows(count, label)[:, first - 1 : last].sum(1).log()

    def draw(
        self, u: Float[Tensor, " n"], label: Labels | None = None, least: int = 1, most: int | None = None
    ) -> Int[Tensor, " n"]:
        """Draw a length in least..most for each uniform number in [0, 1), by inverting the distribution function.

        Raises:
            ValueError: no length of an example lies there.
        """
        most = len(self.counts) if most is None else most
        if not 1 <= least <= most <= len(self.counts):
            raise ValueError(f"lengths are in 1..{len(self.counts)}, got {least}..{most}")
        cumulative = self._rows(len(u), label).to(u.device)[:, least - 1 : most].cumsum(1)
        place = u.double().unsqueeze(1) * cumulative[:, -1:]
        return least + torch.searchsorted(cumulative.contiguous(), place, right=True).squeeze(1)

    def canvas(self, n: Int[Tensor, " batch"], mask_id: int) -> Tokens:
        """Return examples (batch, L) of which the first n tokens are masked, and the others filled up."""
        position = torch.arange(len(self.counts), device=n.device)
        return torch.where(position < n.unsqueeze(1), mask_id, self.fill)

    def cut(self, row: Int[Tensor, " length"]) -> Int[Tensor, " shorter"]:
        """Return an example without what it is filled up with at its end."""
        kept = (row != self.fill).nonzero()
        return row[: int(kept[-1]) + 1] if len(kept) else row[:0]


def _smoothed(counts: tuple[int, ...]) -> Float64[Tensor, " length"]:
    """Return p(n) for n = 1..L from the number of examples of each length.

    The box K_h spreads an example of length n evenly over n − h..n + h, as far as these are in 1..L.
    """
    c = np.array(counts, dtype=np.float64)
    total, length = c.sum(), len(c)
    if not total:
        return torch.full((length,), 1 / length, dtype=torch.float64)
    n = np.arange(length)
    best, highest = c, -np.inf
    for half in (0, *(2**i for i in range(max(1, length // 4).bit_length()))):
        first, last = np.maximum(n - half, 0), np.minimum(n + half, length - 1)
        share = 1 / (last - first + 1)
        cumulative = np.concatenate(([0.0], (c * share).cumsum()))
        spread = cumulative[last + 1] - cumulative[first]
        without = np.maximum(spread - share, 0)[c > 0] + 1 / length
        score = float((c[c > 0] * np.log(without / total)).sum())
        if score > highest + 1e-9:
            best, highest = spread, score
    return torch.from_numpy((best + 1 / length) / (total + 1))
