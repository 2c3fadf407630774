"""Likelihood: the negative ELBO of a data set, with its standard error and its protocol."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.networks.base import Network, check_label, check_tokens
from unmask.objectives import Objective
from unmask.randomness import Generators, seeded
from unmask.types import Labels, Tokens


@dataclass(frozen=True)
class Likelihood:
    """A mean negative ELBO over examples.

    Attributes:
        nats: mean per example.
        nats_error: its standard error, over examples and draws together; NaN of a single example.
        examples: number of examples.
        length: tokens per example.
        calls: network evaluations of one example that were spent, in all.
    """

    nats: float
    nats_error: float
    examples: int
    length: int
    calls: int

    @property
    def bits(self) -> tuple[float, float]:
        """Bits per token (dimension, character) and its standard error."""
        scale = 1 / (self.length * math.log(2))
        return self.nats * scale, self.nats_error * scale

    @property
    def perplexity(self) -> tuple[float, float]:
        """exp(nats per token) and its standard error, by the delta method."""
        value = math.exp(self.nats / self.length)
        return value, value * self.nats_error / self.length


@torch.no_grad()
def draw_nelbo(
    network: Network,
    objective: Objective,
    x: Tokens,
    label: Labels | None = None,
    *,
    draws: int,
    generator: Generators = None,
) -> Float[Tensor, "draws batch"]:
    """Estimate the negative ELBO of each example from several masks each, in nats.

    All draws go through the objective as one batch, so that its low-discrepancy times are spread over the draws of
    each example as well as over the examples. Each single estimate is unbiased.

    Raises:
        ValueError: draws below 1, tokens or labels out of range.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    check_tokens(x, network.vocab_size)
    check_label(label, network.classes, len(x))
    x = x.repeat(draws, *[1] * (x.dim() - 1))
    label = None if label is None else label.repeat(draws)
    return objective(network, x, label, generator=generator).nelbo.view(draws, -1)


def evaluate(
    network: Network,
    objective: Objective,
    batches: Iterable[tuple[Tensor, Tensor | None]],
    *,
    draws: int,
    seed: int = 0,
) -> Likelihood:
    """Average the negative ELBO over batches of examples.

    The standard error treats examples as independent. Draws are spread evenly over an example and its batch, which as a
    rule makes the mean better than this error says.

    Args:
        network: in evaluation mode.
        objective: estimates the bound.
        batches: clean tokens and labels (or None) on the network's device.
        draws: masks per example.
        seed: of the masks; batch i has a generator of its own.

    Raises:
        ValueError: no examples, or what `draw_nelbo` refuses.
        FloatingPointError: an estimate that is not finite.
    """
    parts: list[Tensor] = []
    length = 0
    for i, (x, label) in enumerate(batches):
        generator = seeded(seed, i, device=x.device)
        parts.append(draw_nelbo(network, objective, x, label, draws=draws, generator=generator).mean(0).double())
        length = x[0].numel()
    if not parts:
        raise ValueError("no examples to evaluate")
    nats = torch.cat(parts)
    if not nats.isfinite().all():
        raise FloatingPointError(f"example {int((~nats.isfinite()).nonzero()[0])} has a likelihood that is not finite")
    error = nats.std() / math.sqrt(len(nats)) if len(nats) > 1 else torch.tensor(math.nan)
    return Likelihood(nats.mean().item(), error.item(), len(nats), length, draws * objective.calls * len(nats))
