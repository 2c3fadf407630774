"""Likelihood: the negative ELBO of a data set, with its standard error and its protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from jaxtyping import Int
from torch import Tensor

from unmask.checks import check_choice
from unmask.codecs.base import Codec
from unmask.codecs.tokenizer import Tokenizer
from unmask.data.base import DataSet, Part
from unmask.evaluation.breakdown import Breakdown, text_bytes
from unmask.evaluation.data import measured_data
from unmask.evaluation.nelbo import Estimate, Likelihood
from unmask.evaluation.per_example import PerExample
from unmask.evaluation.protocol import Precision, check_processes, versions, weights
from unmask.kinds import require_masked
from unmask.model import MaskedDiffusion
from unmask.objectives.base import Objective
from unmask.objectives.scalar import ContinuousELBO, DiscreteELBO
from unmask.objectives.score_entropy import ScoreEntropy
from unmask.objectives.uniform import UniformELBO
from unmask.processes import shared
from unmask.report import Figure, Report
from unmask.schedules import TokenPolynomial
from unmask.storage.description import describe

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture


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
