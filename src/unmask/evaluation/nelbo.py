"""The mean negative ELBO of examples, in batches, with its standard error."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.checks import check_choice, check_whole
from unmask.data.base import Batches, Split
from unmask.evaluation.breakdown import Breakdown
from unmask.evaluation.per_example import Bounds, error_of_mean
from unmask.evaluation.protocol import Precision, evaluation_mode
from unmask.given import given_and_clean
from unmask.lengths import Lengths
from unmask.model import MaskedDiffusion
from unmask.networks.base import Network
from unmask.objectives.base import Objective
from unmask.objectives.estimate import draw_loss
from unmask.processes import in_order
from unmask.randomness import seeded

LARGEST = math.log(sys.float_info.max)
"""Nats a token above which a perplexity is shown as infinite."""


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
        each: the bound of each example, its error over the draws, and its tokens.
    """

    nats: float
    nats_error: float
    examples: int
    length: float
    nats_per_token: tuple[float, float]
    calls: int
    each: Bounds | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(
        cls, nats: Float[Tensor, " n"], tokens: Int[Tensor, " n"], calls: int, error: Float[Tensor, " n"] | None = None
    ) -> Likelihood:
        """Average over examples of the given numbers of tokens; the error of the ratio is by the delta method."""
        count, length = len(nats), tokens.double().mean().item()
        mean, rate = nats.mean().item(), nats.sum().item() / int(tokens.sum())

        def spread(values: Tensor) -> float:
            return values.std().item() / math.sqrt(count) if count > 1 else math.nan

        each = None if error is None else Bounds(nats, error, tokens)
        return cls(mean, spread(nats), count, length, (rate, spread(nats - rate * tokens) / length), calls, each)

    @property
    def bits(self) -> tuple[float, float]:
        """Bits per token (dimension, character) and its standard error."""
        value, error = self.nats_per_token
        return value / math.log(2), error / math.log(2)

    @property
    def perplexity(self) -> tuple[float, float]:
        """exp(nats per token) and its standard error, by the delta method."""
        nats, error = self.nats_per_token
        value = math.exp(nats) if nats < LARGEST else math.inf
        return value, value * error


class Measured(NamedTuple):
    """What is found of a batch: see `Bounds`; where that is asked for, what `Breakdown.add` takes of it."""

    nats: Float[Tensor, " n"]
    error: Float[Tensor, " n"]
    tokens: Int[Tensor, " n"]
    spent: tuple[Int[Tensor, "n length"], Float[Tensor, "n length"], Bool[Tensor, "n length"]] | None


def evaluate(
    network: Network,
    objective: Objective,
    batches: Iterable[tuple[Tensor, Tensor | None]],
    *,
    draws: int,
    seed: int = 0,
    lengths: Lengths | None = None,
    breakdown: Breakdown | None = None,
    title: str | None = None,
) -> Likelihood:
    """Average the negative ELBO over batches of examples; several processes share these (`unmask.processes.together`).

    The standard error treats examples as independent. Draws are spread evenly over an example and its batch, which as a
    rule makes the mean better than this error says.

    Args:
        network: in evaluation mode.
        objective: estimates the bound.
        batches: clean tokens and labels (or None); a token t that is given stands as -1 - t.
        draws: masks per example; an exact objective has none.
        seed: of the masks; batch i has a generator of its own.
        lengths: p(n) of a model that has one: −log p(n) is added to the bound of each example.
        breakdown: what each token adds is added to it.
        title: of a progress bar; None: there is none.

    Raises:
        ValueError: no examples, or what `draw_loss` refuses.
        FloatingPointError: an estimate that is not finite.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))

    def measure(i: int, batch: tuple[Tensor, Tensor | None]) -> Measured:
        x, label = batch[0].to(device), None if batch[1] is None else batch[1].to(device)
        generator = seeded(seed, i, device=device)
        of_length = 0 if lengths is None else -lengths.log_p(lengths.measure(x), label)
        given, x = given_and_clean(x, network.excluded)
        drawn = draw_loss(network, objective, x, label, draws=draws, given=given, generator=generator)
        each = drawn.nelbo.view(draws, -1)
        nats = each.mean(0).double() + of_length
        error = torch.zeros_like(nats) if objective.exact else error_of_mean(each)
        counted = torch.ones_like(x, dtype=torch.bool).flatten(1) if given is None else ~given.flatten(1)
        tokens = counted.sum(1)
        spent = None if breakdown is None else (x.flatten(1), drawn.parts.view(draws, len(x), -1).mean(0), counted)
        return Measured(nats, error, tokens, spent)

    found = []
    for one in (Measured(*one) for one in in_order(measure, batches, title=title)):
        if breakdown is not None and one.spent is not None:
            breakdown.add(*one.spent)
        found.append(one._replace(spent=None))
        if len(found) == 1:
            check_finite(one.nats)  # where a model has diverged, before hours are spent on it
    if not found:
        raise ValueError("no examples to evaluate")
    nats, errors, tokens = (torch.cat(part).cpu() for part in zip(*(one[:3] for one in found), strict=True))
    check_finite(nats)
    calls = (1 if objective.exact else draws) * objective.calls * network.passes * len(nats)
    return Likelihood.of(nats, tokens, calls, errors)


def check_finite(nats: Float[Tensor, " n"]) -> None:
    """Raise a FloatingPointError for an example whose likelihood is not finite."""
    if not nats.isfinite().all():
        raise FloatingPointError(f"example {int((~nats.isfinite()).nonzero()[0])} has a likelihood that is not finite")


@dataclass(frozen=True)
class Estimate:
    """How likelihoods are estimated; the settings are those of `likelihood`.

    Raises:
        ValueError: a setting that is out of range.
    """

    draws: int
    limit: int | None
    batch_size: int
    seed: int
    precision: Precision

    def __post_init__(self) -> None:
        check_whole(1, draws=self.draws, limit=self.limit, batch_size=self.batch_size)
        check_whole(0, seed=self.seed)
        check_choice("precision", self.precision, get_args(Precision))

    def average(
        self,
        model: MaskedDiffusion,
        objective: Objective,
        split: Split,
        title: str,
        lengths: Lengths | None = None,
        breakdown: Breakdown | None = None,
    ) -> Likelihood:
        """Average the negative ELBO over a part of data, with a progress bar of that title; see `evaluate`."""
        batches = Batches(split, self.batch_size, self.limit)
        mixed = torch.autocast(model.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")
        with evaluation_mode(model), mixed:
            how: dict[str, Any] = {"draws": self.draws, "seed": self.seed, "title": title}
            return evaluate(model.network, objective, batches, **how, lengths=lengths, breakdown=breakdown)
