"""unmask evaluate MODEL: the negative ELBO on a data set, with its standard error and its protocol."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jsonargparse import Namespace
from tqdm import tqdm

from unmask.cli.common import find_model, first, instantiate, load_model, new_parser, own_data, parse
from unmask.data.base import DataSet
from unmask.data.images import ImageSet
from unmask.description import describe
from unmask.files import check_writable, checksum, replacing
from unmask.metrics.likelihood import Breakdown, Likelihood, evaluate
from unmask.model import WEIGHTS, MaskedDiffusion
from unmask.objectives import Objective

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run(arguments: list[str]) -> None:
    """Run `unmask evaluate`."""
    path = first(arguments, "MODEL")
    model = load_model(path, None) if path else None
    parser = new_parser("evaluate", description="Measure the likelihood of a data set under a model.")
    parser.add_argument("model", metavar="MODEL", help="folder of a model or a run, or a name on the Hub")
    parser.add_argument("--split", type=Literal["train", "valid", "test"], default="test", help="part of the data")
    parser.add_argument("--draws", type=int, default=16, help="random masks per example")
    parser.add_argument("--limit", type=int, help="use that many examples, evenly spread; all if not given")
    parser.add_argument(
        "--batch_size", type=int, default=16, help="examples at a time; the network sees draws times as many"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the masks")
    parser.add_argument(
        "--precision",
        type=Literal["32-true", "bf16-mixed"],
        default="32-true",
        help="bf16-mixed: products in bfloat16, faster where the processor has it; the result says which",
    )
    parser.add_argument("--device", type=str, help="cpu, cuda, cuda:1, ...; a GPU where there is one if not given")
    parser.add_argument("--breakdown", type=str, help="picture of where the bits go: by position and by token value")
    parser.add_argument("--json", type=str, help="file to write the result and its protocol to")
    parser.add_subclass_arguments(
        Objective,
        "objective",
        required=False,
        default=None,
        help="the bound that is estimated; by default TimeFreeELBO, or TokenELBO for a learned schedule",
    )
    parser.add_subclass_arguments(
        DataSet,
        "data",
        required=False,
        default=own_data(model),
        help="what to measure; by default what was trained on",
    )
    parser.add_argument(
        "--fid",
        action="store_true",
        help="instead of the likelihood: the Fréchet distance of sampled images to the training images, over "
        "--steps, schedules and grids",
    )
    parser.add_argument("--n", type=int, default=1000, help="for --fid: images from each sampler; figures depend on it")
    parser.add_argument("--steps", type=str, default="16,64,256", help="for --fid: numbers of ancestral steps")
    parser.add_argument(
        "--features",
        type=str,
        default="inception",
        help="for --fid: what looks at the images: inception, or the folder of another model of such images",
    )
    parser.add_argument("--guidance", type=float, default=1.0, help="for --fid: scale of classifier-free guidance")
    parser.add_argument("--figure", type=str, help="for --fid: file for the curves")
    settings = parse(parser, arguments)
    for name, least in (("draws", 1), ("batch_size", 1), ("limit", 1), ("n", 2), ("seed", 0)):
        if settings[name] is not None and settings[name] < least:
            raise ValueError(f"--{name} must be at least {least}, got {settings[name]}")
    for option, belongs in (("figure", settings.fid), ("breakdown", not settings.fid)):
        if settings[option] and not belongs:
            raise ValueError(f"--{option} does not go {'without' if option == 'figure' else 'with'} --fid")
        if settings[option] and Path(settings[option]).suffix not in (".png", ".pdf", ".svg"):
            raise ValueError(f"--{option} {settings[option]}: the file must end in .png, .pdf or .svg")
    for option in ("json", "breakdown", "figure"):
        if settings[option]:
            check_writable(Path(settings[option]), f"--{option}")
    if model is None or settings.device:
        model = load_model(settings.model, settings.device)
    made = instantiate(parser, settings)
    if made.data is None:
        raise ValueError(f"{settings.model} does not say what it was trained with: name the data, as in --data Digits")
    check_fits(model, made.data)
    warn_if_changed(model, made.data)
    if isinstance(made.data, ImageSet):  # mirrored images are for training alone
        made.data = replace(made.data, flip=False)
    (fid if settings.fid else likelihood)(model, made, settings)


def write(report: dict[str, Any], settings: Namespace) -> None:
    """Write a report where it is wanted."""
    if settings.json:
        with replacing(settings.json) as target:
            target.write_text(json.dumps(report, indent=2) + "\n")


def draw(make: Callable[[], Figure], path: str) -> None:
    """Write a figure."""
    with replacing(path) as target:
        make().savefig(target, dpi=150)
    print(path)


def fid(model: MaskedDiffusion, made: Namespace, settings: Namespace) -> None:
    """Print Fréchet distances, write them with their protocol, and draw them."""
    from unmask.cli.fid import measure

    report = measure(model, made.data, settings)
    report["protocol"] |= weights(settings, model) | versions(model)
    write(report, settings)
    if settings.figure:
        from unmask.pictures import distance_figure

        draw(lambda: distance_figure(report["rows"]), settings.figure)


def likelihood(model: MaskedDiffusion, made: Namespace, settings: Namespace) -> None:
    """Print the likelihood, write it with its protocol, and draw where the bits go."""
    objective = model.fit_objective(made.objective)
    split = made.data.split(settings.split)
    batches = split.batches(settings.batch_size, settings.limit)
    count = min(settings.limit or len(split), len(split))
    bar = tqdm(batches, desc="evaluating", total=-(-count // settings.batch_size), unit="batch", delay=2)
    moved = ((x.to(model.device), None if label is None else label.to(model.device)) for x, label in bar)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=settings.precision == "bf16-mixed"):
        breakdown = (
            Breakdown.empty(math.prod(made.data.shape), model.network.vocab_size) if settings.breakdown else None
        )
        result = evaluate(
            model.network, objective, moved, draws=settings.draws, seed=settings.seed, breakdown=breakdown
        )
    report = summarise(result, model) | protocol(settings, model, made.data, objective)
    print(table(report))
    write(report, settings)
    if breakdown is not None:
        from unmask.pictures import breakdown_figure

        draw(lambda: breakdown_figure(breakdown, made.data.shape, model.codec), settings.breakdown)


def warn_if_changed(model: MaskedDiffusion, data: DataSet) -> None:
    """Say so where the data are described as those that the model was trained on, but hold something else."""
    known = model.about.get("train_sha256")
    if known and describe(data.settled()) == model.about.get("data") and data.split("train").checksum != known:
        print(
            f"unmask: warning: {data.name} is not what the model was trained on: its content changed", file=sys.stderr
        )


def check_fits(model: MaskedDiffusion, data: DataSet) -> None:
    """Raise a ValueError unless the model's codec made the tokens of the data, in examples of the model's shape."""
    if data.codec != model.codec:
        raise ValueError(f"{data.name} has the tokens {data.codec}, but the model was trained on {model.codec}")
    if data.shape != model.shape and (len(data.shape) > 1 or len(model.shape) > 1):
        raise ValueError(f"{data.name} has examples of shape {data.shape}, the model of shape {model.shape}")


def summarise(result: Likelihood, model: MaskedDiffusion) -> dict[str, Any]:
    """Return the figures of a likelihood, each as [value, standard error], in the units that fit the data."""
    figures = {"nats_per_example": (result.nats, result.nats_error), f"bits_per_{model.codec.unit}": result.bits}
    if model.codec.unit != "dimension":
        figures[f"perplexity_per_{model.codec.unit}"] = result.perplexity
    counts = {"examples": result.examples, "tokens_per_example": result.length, "network_calls": result.calls}
    known = {name: [value, None if math.isnan(error) else error] for name, (value, error) in figures.items()}
    return known | counts


def protocol(settings: Namespace, model: MaskedDiffusion, data: DataSet, objective: Objective) -> dict[str, Any]:
    """Return everything that another person needs to get the same figure."""
    return {
        "data": data.name,
        "split": settings.split,
        "data_sha256": data.split(settings.split).checksum,
        "objective": describe(objective),
        "draws_per_example": settings.draws,
        "seed": settings.seed,
        **weights(settings, model),
        "precision": settings.precision,
    } | versions(model)


def weights(settings: Namespace, model: MaskedDiffusion) -> dict[str, str | None]:
    """Return which weights a figure is of."""
    folder = Path(find_model(settings.model))
    run = model.about.get("run", {})
    return {
        "weights": f"moving average, decay {run['ema']}" if run.get("ema") else "not averaged",
        "weights_sha256": checksum(folder / WEIGHTS) if folder.is_dir() else None,
    }


def versions(model: MaskedDiffusion) -> dict[str, str]:
    """Return what a figure was computed on and with."""
    return {"device": str(model.device), "torch": torch.__version__, "unmask": version("unmask")}


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
