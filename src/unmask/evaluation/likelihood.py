"""Likelihood: the negative ELBO of a data set, with its standard error and its protocol."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unmask.given import given_and_clean
from unmask.networks.base import Network
from unmask.objectives.base import Objective
from unmask.objectives.estimate import draw_loss
from unmask.randomness import seeded


@dataclass(frozen=True)
class Likelihood:
    """A mean negative ELBO over examples.

    Attributes:
        nats: mean per example.
        nats_error: its standard error, over examples and draws together; NaN of a single example.
        examples: number of examples.
        length: tokens per example, those that are given not counted; their mean where it varies.
        nats_per_token: all nats over all tokens, and its standard error.
        calls: network evaluations of one example that were spent, in all.
    """

    nats: float
    nats_error: float
    examples: int
    length: float
    nats_per_token: tuple[float, float]
    calls: int

    @classmethod
    def of(cls, nats: Float[Tensor, " n"], tokens: Int[Tensor, " n"], calls: int) -> "Likelihood":
        """Average over examples of the given numbers of tokens; the error of the ratio is by the delta method."""
        count, length = len(nats), tokens.double().mean().item()
        mean, rate = nats.mean().item(), nats.sum().item() / int(tokens.sum())

        def error(values: Tensor) -> float:
            return values.std().item() / math.sqrt(count) if count > 1 else math.nan

        return cls(mean, error(nats), count, length, (rate, error(nats - rate * tokens) / length), calls)

    @property
    def bits(self) -> tuple[float, float]:
        """Bits per token (dimension, character) and its standard error."""
        value, error = self.nats_per_token
        return value / math.log(2), error / math.log(2)

    @property
    def perplexity(self) -> tuple[float, float]:
        """exp(nats per token) and its standard error, by the delta method."""
        value = math.exp(self.nats_per_token[0])
        return value, value * self.nats_per_token[1]


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
    def empty(cls, length: int, vocab_size: int) -> "Breakdown":
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


def evaluate(
    network: Network,
    objective: Objective,
    batches: Iterable[tuple[Tensor, Tensor | None]],
    *,
    draws: int,
    seed: int = 0,
    breakdown: Breakdown | None = None,
) -> Likelihood:
    """Average the negative ELBO over batches of examples.

    The standard error treats examples as independent. Draws are spread evenly over an example and its batch, which as a
    rule makes the mean better than this error says.

    Args:
        network: in evaluation mode.
        objective: estimates the bound.
        batches: clean tokens and labels (or None) on the network's device; a token t that is given stands as -1 - t.
        draws: masks per example.
        seed: of the masks; batch i has a generator of its own.
        breakdown: what each token adds is added to it.

    Raises:
        ValueError: no examples, or what `draw_loss` refuses.
        FloatingPointError: an estimate that is not finite.
    """
    parts: list[Tensor] = []
    tokens: list[Tensor] = []
    for i, (x, label) in enumerate(batches):
        generator = seeded(seed, i, device=x.device)
        given, x = given_and_clean(x)
        drawn = draw_loss(network, objective, x, label, draws=draws, given=given, generator=generator)
        parts.append(drawn.nelbo.view(draws, -1).mean(0).double())
        if breakdown is not None:
            breakdown.add(x.flatten(1), drawn.parts.view(draws, len(x), -1).mean(0))
        tokens.append(torch.full((len(x),), x[0].numel()) if given is None else (~given).flatten(1).sum(1).cpu())
    if not parts:
        raise ValueError("no examples to evaluate")
    nats = torch.cat(parts)
    if not nats.isfinite().all():
        raise FloatingPointError(f"example {int((~nats.isfinite()).nonzero()[0])} has a likelihood that is not finite")
    return Likelihood.of(nats.cpu(), torch.cat(tokens), draws * objective.calls * len(nats))
