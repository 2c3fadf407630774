"""unmask evaluate MODEL: the negative ELBO on a data set, with its standard error and its protocol."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser, Namespace
from tqdm import tqdm

from unmask.cli.common import at_least
from unmask.cli.report import check_picture, draw, versions, weights, write
from unmask.data.base import DataSet
from unmask.evaluation.likelihood import Breakdown, Likelihood, evaluate
from unmask.model import MaskedDiffusion
from unmask.objectives.base import Objective
from unmask.objectives.scalar import DiscreteELBO
from unmask.schedules import TokenPolynomial
from unmask.storage.description import describe

OPTIONS = ("split", "draws", "limit", "precision", "breakdown", "objective", "steps", "data")
NEEDS_DATA = True


def add_arguments(parser: ArgumentParser) -> None:
    """Add what is asked for likelihoods alone."""
    group = parser.add_argument_group("likelihood (the measure if no other is named)")
    group.add_argument("--split", type=Literal["train", "valid", "test"], default="test", help="part of the data")
    group.add_argument("--draws", type=int, default=16, help="random masks per example")
    group.add_argument("--limit", type=int, help="use that many examples, evenly spread; all if not given")
    group.add_argument(
        "--precision",
        type=Literal["32-true", "bf16-mixed"],
        default="32-true",
        help="bf16-mixed: products in bfloat16, faster where the processor has it; the result says which",
    )
    group.add_argument("--breakdown", type=str, help="picture of where the bits go: by position and by token value")
    group.add_subclass_arguments(
        Objective,
        "objective",
        required=False,
        default=None,
        help="the bound that is estimated; by default TimeFreeELBO, or TokenELBO for a learned schedule",
    )


def check(settings: Namespace) -> None:
    """Raise an error for what is known to be wrong before anything is measured."""
    at_least(settings, draws=1, limit=1)
    if settings.steps and (settings.objective or settings.breakdown):
        raise ValueError("--steps names the bounds: it goes with neither --objective nor --breakdown")
    check_picture(settings, "breakdown")


def bounds(model: MaskedDiffusion, chosen: Objective | None, steps: str | None) -> list[tuple[str | None, Objective]]:
    """Return what is to be estimated: one objective, or that of every number T of steps in `steps`, with its name.

    "inf" is the limit of many steps: the objective that bounds the model by itself.
    """
    if steps is None:
        return [(None, model.fit_objective(chosen))]
    if isinstance(model.schedule, TokenPolynomial):
        raise ValueError("--steps needs a scalar schedule; the model has a state-dependent one")
    found: list[tuple[str | None, Objective]] = []
    for part in steps.split(","):
        name = part.strip()
        if name != "inf" and (not name.isdecimal() or int(name) < 1):
            raise ValueError(f"--steps must be whole numbers of at least 1, or inf, with commas between; got {steps!r}")
        found.append((name, model.fit_objective() if name == "inf" else DiscreteELBO(model.schedule, int(name))))
    return found


def measure(model: MaskedDiffusion, made: Namespace, settings: Namespace) -> None:
    """Print the likelihood, write it with its protocol, and draw where the bits go."""
    objectives = bounds(model, made.objective, settings.steps)
    split = made.data.split(settings.split)
    count = min(settings.limit or len(split), len(split))
    breakdown = Breakdown.empty(math.prod(made.data.shape), model.network.vocab_size) if settings.breakdown else None
    rows = []
    for name, objective in objectives:
        batches = split.batches(settings.batch_size, settings.limit)
        title = f"T = {name}" if name else "evaluating"
        bar = tqdm(batches, desc=title, total=-(-count // settings.batch_size), unit="batch", delay=2)
        moved = ((x.to(model.device), None if label is None else label.to(model.device)) for x, label in bar)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=settings.precision == "bf16-mixed"):
            result = evaluate(
                model.network, objective, moved, draws=settings.draws, seed=settings.seed, breakdown=breakdown
            )
        rows.append(({"steps": name} if name else {}) | summarise(result, model))
    stated = protocol(settings, model, made.data, objectives[0][1])
    if settings.steps is None:
        report = rows[0] | stated
        print(table(report))
    else:
        del stated["objective"]
        report = {"rows": rows, "schedule": describe(model.schedule)} | stated
        print(
            "\n\n".join(table(row) for row in rows) + "\n\n" + table({k: v for k, v in report.items() if k != "rows"})
        )
    write(report, settings, model)
    if breakdown is not None:
        from unmask.display.figures import breakdown_figure

        draw(lambda: breakdown_figure(breakdown, made.data.shape, model.codec), settings.breakdown)


def summarise(result: Likelihood, model: MaskedDiffusion) -> dict[str, Any]:
    """Return the figures of a likelihood, each as [value, standard error], in the units that fit the data."""
    figures = {"nats_per_example": (result.nats, result.nats_error), f"bits_per_{model.codec.unit}": result.bits}
    if model.codec.unit != "dimension":
        figures[f"perplexity_per_{model.codec.unit}"] = result.perplexity
    length = int(result.length) if result.length.is_integer() else round(result.length, 2)
    counts = {"examples": result.examples, "tokens_per_example": length, "network_calls": result.calls}
    known = {name: [value, None if math.isnan(error) else error] for name, (value, error) in figures.items()}
    return known | counts


def protocol(settings: Namespace, model: MaskedDiffusion, data: DataSet, objective: Objective) -> dict[str, Any]:
    """Return everything that another person needs to get the same figure."""
    return {
        "data": data.name,
        "data_settings": describe(data.resolved()),
        "split": settings.split,
        "data_sha256": data.split(settings.split).checksum,
        "objective": describe(objective),
        "draws_per_example": settings.draws,
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        **weights(settings, model),
        "precision": settings.precision,
    } | versions(model)


def table(report: dict[str, Any]) -> str:
    """Lay a report out in two columns, figures with their standard errors."""
    lines = []
    for name, value in report.items():
        if isinstance(value, list):
            value = f"{value[0]:.4f} ± " + ("unknown (one example)" if value[1] is None else f"{value[1]:.4f}")
        elif isinstance(value, dict):
            value = ", ".join(f"{item}" if key == "class" else f"{key}={item}" for key, item in value.items())
        lines.append(f"{name.replace('_', ' '):24} {value}")
    return "\n".join(lines)
