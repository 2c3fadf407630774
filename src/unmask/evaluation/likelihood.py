"""Likelihood: the negative ELBO of a data set, with its standard error and its protocol."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.checks import check_choice, check_whole
from unmask.codecs.base import Codec
from unmask.codecs.tokenizer import Tokenizer
from unmask.data.base import Batches, DataSet, Part, Split
from unmask.evaluation.breakdown import Breakdown, text_bytes
from unmask.evaluation.data import measured_data
from unmask.evaluation.per_example import Bounds, PerExample, error_of_mean
from unmask.evaluation.protocol import Precision, check_processes, evaluation_mode, versions, weights
from unmask.given import given_and_clean
from unmask.kinds import require_masked
from unmask.lengths import Lengths
from unmask.model import MaskedDiffusion
from unmask.networks.base import Network
from unmask.objectives.base import Objective
from unmask.objectives.estimate import draw_loss
from unmask.objectives.scalar import ContinuousELBO, DiscreteELBO
from unmask.objectives.score_entropy import ScoreEntropy
from unmask.objectives.uniform import UniformELBO
from unmask.processes import in_order, shared
from unmask.randomness import seeded
from unmask.report import Figure, Report
from unmask.schedules import TokenPolynomial
from unmask.storage.description import describe

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

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
class LikelihoodReport(Report):
    """Negative ELBOs of a data set.

    Args:
        rows, protocol: see `Report`.
        breakdown: where the bits go, if that was asked for.
        shape: dims of an example.
        codec: says what a token is.
        per_example: the bound of each example, if that was asked for.
    """

    breakdown: Breakdown | None = None
    shape: tuple[int, ...] = ()
    codec: Codec | None = None
    per_example: PerExample | None = None

    def write_examples(self, path: Path | str) -> None:
        """Write the bound of each example as a line of JSON; see `PerExample.rows`.

        Raises:
            ValueError: the report was made without `per_example`.
        """
        if self.per_example is None:
            raise ValueError("a likelihood knows that of each example where it was measured with per_example=True")
        self.per_example.write(path)

    def figure(self) -> Picture:
        """Draw where the bits go: at each position, and for each token value.

        Raises:
            ValueError: the report was made without `breakdown`.
        """
        from unmask.display.measured import breakdown_figure

        if self.breakdown is None or self.codec is None:
            raise ValueError("a likelihood has a figure where it was measured with breakdown=True")
        return breakdown_figure(*self.breakdown.mean_bits(), self.breakdown.values, self.shape, self.codec)


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


@shared
def likelihood(
    model: MaskedDiffusion,
    data: DataSet | None = None,
    *,
    split: Part = "test",
    objective: Objective | None = None,
    steps: Sequence[int | float] | None = None,
    draws: int = 16,
    limit: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    precision: Precision = "32-true",
    breakdown: bool = False,
    per_example: bool = False,
) -> LikelihoodReport:
    """Measure the negative ELBO of data, an upper bound on their -log p, with its standard error.

    Of a left-to-right model it is -log p itself (`NextToken`), and the error is over the examples alone.

        report = unmask.evaluation.likelihood(model, Digits(), draws=4)
        report.rows[0]["bits_per_dimension"].value

    Where examples have lengths (`MaskedDiffusion.lengths`) the bound is on −log p(n) − log p(x | n).

    Args:
        model: to be measured.
        data: what to measure; None: what the model was trained with.
        split: part of the data.
        objective: the bound; None: the model's own (`MaskedDiffusion.fit_objective`).
        steps: numbers T of steps, a row for the bound of each; `math.inf` is their limit, the model's own bound. (The
            own bound of a model of scores is not of its normalised predictions: the limit is then `ContinuousELBO`.)
        draws: random masks per example.
        limit: use so many examples, evenly spread; None: all.
        batch_size: examples at a time.
        seed: of the masks.
        precision: bf16-mixed multiplies in bfloat16, which is faster where the processor has it.
        breakdown: whether to record where the bits go, for `figure()`.
        per_example: whether to keep the bound of each example, for `write_examples()`.

    Raises:
        ValueError: a setting out of range, data that do not fit the model, or a model that does not name its data.
        FloatingPointError: an estimate that is not finite.
    """
    check_choice("split", split, get_args(Part))
    estimate = Estimate(draws, limit, batch_size, seed, precision)
    if steps is not None and (objective is not None or breakdown or per_example):
        raise ValueError("steps name the bounds: give neither objective, breakdown nor per_example with them")
    objectives = bounds(model, objective, steps)
    data = measured_data(model, data)
    part = data.split(split)
    check_processes(model, data=lambda: part.checksum)
    places = Breakdown.empty(math.prod(data.shape), model.network.vocab_size) if breakdown else None
    counted = text_bytes(part, model.codec, limit) if isinstance(model.codec, Tokenizer) else None
    rows = []
    for name, bound in objectives:
        result = estimate.average(model, bound, part, f"T = {name}" if name else "evaluating", model.lengths, places)
        rows.append(({"steps": name} if name else {}) | _figures(result, model, counted))
    bounded = {"objective": describe(objectives[0][1])} if steps is None else {"schedule": describe(model.schedule)}
    protocol = {
        "data": data.name,
        "data_settings": describe(data.resolved()),
        "split": split,
        "examples_used": _used(data, split, rows[0]["examples"], len(part)),
        "data_sha256": part.checksum,
        **bounded,
        **({} if model.lengths is None else {"lengths": "counted: -log p(n) is in the bound of each example"}),
        **drawn_of(objectives[0][1], draws),
        "limit": limit,
        "batch_size": batch_size,
        "seed": seed,
        **weights(model),
        "precision": precision,
        **versions(model),
    }
    each = PerExample(part, part.spread(limit), result.each) if per_example and result.each is not None else None
    return LikelihoodReport(tuple(rows), protocol, places, data.shape, model.codec, each)


def _used(data: DataSet, split: Part, used: int, count: int) -> str:
    """Say how many of how many examples were measured, and why no more."""
    try:
        whole = count if split == "all" else len(data.split("all"))
    except (KeyError, ValueError):  # a data set of the user's that has only the three parts
        whole = count
    limited = f"{used} of {count}" + (", by limit," if used < count else "")
    return f"{limited} in split {split}" + (f"; {whole} in split all" if whole > count else "")


def bounds(
    model: MaskedDiffusion, objective: Objective | None, steps: Sequence[int | float] | None
) -> list[tuple[str | None, Objective]]:
    """Return what is to be estimated: one objective, or that of every number T of steps, with its name.

    Infinity is the limit of many steps: the objective that bounds the model by itself.

    Raises:
        ValueError: a number below 1, or a model with a state-dependent schedule, or of left to right.
    """
    if steps is None:
        return [(None, model.fit_objective(objective))]
    if isinstance(model.schedule, TokenPolynomial):
        raise ValueError("steps need a scalar schedule; the model has a state-dependent one")
    if model.network.causal:
        raise ValueError("steps are of masked models; a left-to-right model has its likelihood, which takes no steps")
    own = model.fit_objective()
    if not isinstance(own, UniformELBO):
        require_masked(model.kind, "a bound of so many steps")
    if not steps:
        raise ValueError("steps must name at least one number of steps")
    found: list[tuple[str | None, Objective]] = []
    for count in steps:
        if count == math.inf and isinstance(own, UniformELBO):
            raise ValueError("of replaced tokens there is no bound of infinitely many steps here; name a number")
        if count == math.inf:
            found.append(("inf", ContinuousELBO(model.schedule) if isinstance(own, ScoreEntropy) else own))
        elif count < 1 or count != int(count):
            raise ValueError(f"steps must be whole numbers of at least 1, or infinity; got {count}")
        else:
            own_bound = replace(own, steps=int(count)) if isinstance(own, UniformELBO) else None
            found.append((str(int(count)), own_bound or DiscreteELBO(model.schedule, int(count))))
    return found


def drawn_of(objective: Objective, draws: int) -> dict[str, Any]:
    """Return what a protocol says of the draws: their number, or that there are none."""
    return {"exact": "-log p itself, no bound"} if objective.exact else {"draws_per_example": draws}


def _figures(result: Likelihood, model: MaskedDiffusion, counted: Int[Tensor, " n"] | None) -> dict[str, Any]:
    """Return the figures of a likelihood in the units that fit the data; per byte where those of texts are counted."""
    found = {"nats_per_example": (result.nats, result.nats_error), f"bits_per_{model.codec.unit}": result.bits}
    if model.codec.unit != "dimension":
        found[f"perplexity_per_{model.codec.unit}"] = result.perplexity
    if counted is not None and counted.any() and result.each is not None:
        found["bits_per_byte"] = Likelihood.of(result.each.nats, counted, result.calls).bits
    length = int(result.length) if result.length.is_integer() else round(result.length, 2)
    counts = {"examples": result.examples, "tokens_per_example": length, "network_calls": result.calls}
    return {name: Figure.of(pair) for name, pair in found.items()} | counts
