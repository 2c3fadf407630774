"""unmask evaluate MODEL --fid: the Fréchet distance of samples over steps, schedules and grids."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from itertools import product
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from unmask.cli.common import at_least, load_model
from unmask.cli.report import check_picture, draw, versions, weights, write
from unmask.cli.sample import draw_batches
from unmask.cli.study import whole_numbers
from unmask.codecs.pixels import Pixels
from unmask.data.base import DataSet
from unmask.data.text import cache_folder
from unmask.evaluation.statistics import Extractor, Inception, ModelFeatures, Statistics, frechet_with_error, gather
from unmask.model import MaskedDiffusion
from unmask.samplers.ancestral import Ancestral, Grid
from unmask.samplers.first_hitting import FirstHitting
from unmask.schedules import Cosine, Linear, TokenPolynomial
from unmask.storage.description import describe
from unmask.storage.files import replacing

OPTIONS = ("fid", "n", "steps", "features", "guidance", "figure", "data")
NEEDS_DATA = True
STEPS = "16,64,256"


def add_arguments(parser: ArgumentParser) -> None:
    """Add what is asked for Fréchet distances alone."""
    group = parser.add_argument_group("Fréchet distance of sampled images")
    group.add_argument(
        "--fid",
        action="store_true",
        help="instead of the likelihood: the Fréchet distance of sampled images to the training images, over "
        "--steps, schedules and grids",
    )
    group.add_argument(
        "--features",
        type=str,
        default="inception",
        help="what looks at the images: inception, or the folder of another model of such images",
    )


def check(settings: Namespace) -> None:
    """Raise an error for what is known to be wrong before anything is measured."""
    at_least(settings, n=2)
    check_picture(settings, "figure")


def measure(model: MaskedDiffusion, made: Namespace, settings: Namespace) -> None:
    """Print Fréchet distances, write them with their protocol, and draw them."""
    report = distances(model, made.data, settings)
    report["protocol"] |= weights(settings, model) | versions(model)
    write(report, settings, model)
    if settings.figure:
        from unmask.display.figures import distance_figure

        draw(lambda: distance_figure(report["rows"]), settings.figure)


def distances(model: MaskedDiffusion, data: DataSet, settings: Namespace) -> dict[str, Any]:
    """Print the distance of samples to the training images for each sampler, and of test images; return all of it.

    Raises:
        ValueError: the model is not of images, or its schedule is state-dependent.
    """
    codec = model.codec
    if not isinstance(codec, Pixels):
        raise ValueError(f"--fid is for models of images; this one's tokens are {codec}")
    if isinstance(model.schedule, TokenPolynomial):
        raise ValueError("--fid compares samplers of scalar schedules; the model has a state-dependent one")
    guidance = 1.0 if settings.guidance is None else settings.guidance
    if guidance != 1 and model.network.classes is None:
        raise ValueError(f"--guidance {guidance:g} is for models with classes; this one has none")
    steps = whole_numbers(settings.steps or STEPS)
    there = len(data.split("test"))
    if there < 2:
        raise ValueError(f"{data.name}: --fid needs at least 2 test images, got {there}")
    if there < settings.n:
        print(
            f"unmask: note: {data.name} has only {there} test images: their row is not comparable with those of "
            f"{settings.n} samples, for the distance grows as images get fewer",
            file=sys.stderr,
        )
    features = find_features(model, codec, settings)
    real = reference(features, data, settings.batch_size)
    period = model.network.classes or 1
    rows = [measured("test images", "test images", real, features, test_images(data, settings), None, 1)]
    grids: tuple[Grid, ...] = ("uniform", "cosine")
    kinds = product((Linear(), Cosine()), grids, steps)
    chosen: list[Ancestral | FirstHitting] = [Ancestral(schedule, count, grid) for schedule, grid, count in kinds]
    print(f"{'':52} {'images':>7} {'calls':>7}  Fréchet distance")
    print(line(rows[0]))
    label = None if model.network.classes is None else torch.arange(settings.n) % model.network.classes
    chosen.append(FirstHitting())
    for sampler in tqdm(chosen, desc="samplers", unit="sampler"):
        sampler = replace(sampler, guidance=guidance)
        calls: list[float] = []
        images = draw_batches(model, sampler, label, settings, calls)
        name = f"{kind(sampler)}, {sampler.steps} steps" if isinstance(sampler, Ancestral) else kind(sampler)
        rows.append(measured(name, kind(sampler), real, features, images, calls, period))
        tqdm.write(line(rows[-1]))
    return {
        "rows": rows,
        "protocol": {
            "features": features.name,
            "reference": f"{real.count} training images of {data.name}, sha256 {data.split('train').checksum}",
            "labels": "every class in turn" if label is not None else "none",
            "data_settings": describe(data.resolved()),
            "guidance": guidance,
            "batch_size": settings.batch_size,
            "seed": settings.seed,
            "error": "jackknife over 10 groups of the images: their chance, not the bias that falls with their number",
        },
    }


def find_features(model: MaskedDiffusion, codec: Pixels, settings: Namespace) -> Extractor:
    """Return the network that --features names."""
    if settings.features == "inception":
        return Inception(codec, model.device)
    judge = load_model(settings.features, str(model.device))
    return ModelFeatures(judge, settings.features, codec, model.shape)


def reference(features: Extractor, data: DataSet, batch_size: int) -> Statistics:
    """Return the statistics of the training images, from the cache if they are there."""
    split = data.split("train")
    key = json.dumps([features.name, split.checksum, describe(data.codec), data.shape])
    path = cache_folder() / "frechet" / f"{sha256(key.encode()).hexdigest()[:32]}.safetensors"
    if path.is_file():
        try:
            stored = load_file(path)
            return Statistics(stored["mean"], stored["covariance"], int(stored["count"]))
        except (SafetensorError, KeyError):  # damaged: made again
            pass
    bar = tqdm(split.batches(batch_size), total=-(-len(split) // batch_size), desc="training images", delay=2)
    with torch.no_grad():
        found = Statistics.of(features(x).float().cpu() for x, _ in bar)
    with replacing(path) as target:
        save_file({"mean": found.mean, "covariance": found.covariance, "count": torch.tensor(found.count)}, str(target))
    return found


def test_images(data: DataSet, settings: Namespace) -> Iterator[torch.Tensor]:
    """Yield as many test images as there are samples."""
    yield from (x for x, _ in data.split("test").batches(settings.batch_size, settings.n))


def kind(sampler: Ancestral | FirstHitting) -> str:
    """Name the line of the figure that a sampler belongs to."""
    if isinstance(sampler, Ancestral):
        return f"{type(sampler.schedule).__name__}, {sampler.grid} grid"
    return type(sampler).__name__


def measured(
    name: str,
    line: str,
    real: Statistics,
    features: Extractor,
    images: Iterator[torch.Tensor],
    calls: list[float] | None,
    period: int,
) -> dict[str, Any]:
    """Return a row of the table."""
    seen = gather(features, images)
    distance = list(frechet_with_error(real, seen, period))
    mean = sum(calls) / len(calls) if calls else None
    return {"sampler": name, "line": line, "calls": mean, "images": len(seen), "distance": distance}


def line(row: dict[str, Any]) -> str:
    """Lay out a row."""
    value, error = row["distance"]
    calls = "" if row["calls"] is None else f"{row['calls']:.1f}"
    known = "unknown (too few images)" if error is None else f"{error:.2g}"
    return f"{row['sampler']:52} {row['images']:>7} {calls:>7}  {value:.4g} ± {known}"
