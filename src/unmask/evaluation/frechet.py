"""The Fréchet distance of samples to the training images, over steps, schedules and grids."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from unmask.checks import check_whole
from unmask.codecs.base import Codec
from unmask.codecs.pixels import Pixels
from unmask.data.base import Batches, DataSet
from unmask.evaluation.data import measured_data
from unmask.evaluation.protocol import check_processes, evaluation_mode, sampled_in, versions, weights
from unmask.evaluation.statistics import (
    Extractor,
    Inception,
    ModelFeatures,
    Statistics,
    frechet_with_error,
    gather,
)
from unmask.kinds import OWN
from unmask.model import MaskedDiffusion
from unmask.opening import load
from unmask.processes import agreed, first, in_order, shared
from unmask.report import Figure, Report, brief
from unmask.samplers.ancestral import Ancestral, Grid
from unmask.samplers.base import Sampler
from unmask.samplers.draw import draw_batches
from unmask.samplers.first_hitting import FirstHitting
from unmask.schedules import Cosine, Linear, TokenPolynomial
from unmask.storage.description import describe
from unmask.storage.files import replacing
from unmask.storage.folders import cache_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

GRIDS: tuple[Grid, ...] = ("uniform", "cosine")


@dataclass(frozen=True)
class FrechetReport(Report):
    """Fréchet distances of test images, and of samples of each sampler, to the training images.

    Attributes:
        rows: as printed and, of each, its `line` in the figure and its number of `steps`, None where it has none.
    """

    def shown(self) -> list[dict[str, Any]]:
        """Return the rows without what the name of the sampler says."""
        return [{name: value for name, value in row.items() if name not in ("line", "steps")} for row in self.rows]

    def figure(self) -> Picture:
        """Draw distances against network calls, a line for each schedule and grid."""
        from unmask.display.measured import distance_figure

        return distance_figure(self.rows)


@shared
def frechet(
    model: MaskedDiffusion,
    data: DataSet | None = None,
    *,
    features: str | Extractor = "inception",
    samples: int = 1000,
    steps: Sequence[int] = (16, 64, 256),
    guidance: float = 1.0,
    batch_size: int = 16,
    seed: int = 0,
) -> FrechetReport:
    """Measure the Fréchet distance of sampled images to training images, in the features of some network.

    Samplers are ancestral, with linear and cosine schedules on uniform and cosine grids, and first hitting; of a
    left-to-right model it is `LeftToRight` alone. Models with classes are asked for every class in turn. Compare only
    distances from equally many images.

    Args:
        model: of images.
        data: images to compare with; None: what the model was trained with.
        features: "inception"; the folder of another model of such images; or any `Extractor`.
        samples: images from each sampler; the distance grows as they get fewer.
        steps: numbers of steps of the ancestral samplers.
        guidance: scale of classifier-free guidance, for a model with classes.
        batch_size: images at a time.
        seed: image i of a seed is the same whatever the others are.

    Raises:
        ValueError: a setting out of range, a model that is not of images or whose schedule is state-dependent, or data
            that do not fit.
        ImportError, ConnectionError: the Inception network cannot be had.
    """
    check_whole(2, samples=samples)
    check_whole(1, batch_size=batch_size, **{f"steps[{i}]": count for i, count in enumerate(steps)})
    check_whole(0, seed=seed)
    chosen = _samplers(model, steps, guidance)
    data = measured_data(model, data)
    check_processes(model, data=lambda: [data.split(part).checksum for part in ("train", "test")])
    there = len(data.split("test"))
    if there < 2:
        raise ValueError(f"{data.name}: a Fréchet distance needs at least 2 test images, got {there}")
    if there < samples:
        print(
            f"unmask: note: {data.name} has only {there} test images: their row is not comparable with those of "
            f"{samples} samples, for the distance grows as images get fewer",
            file=sys.stderr,
        )
    extractor = find_features(model.codec, model.shape, features, model.device)
    real = reference(extractor, data, batch_size)
    classes = model.network.classes
    label = None if classes is None else torch.arange(samples) % classes
    seen = gather(extractor, (x for x, _ in data.split("test").batches(batch_size, samples)))
    rows = [_row("test images", "test images", real, seen, None, 1) | {"steps": None}]
    tqdm.write(brief(rows[0]), sys.stderr)
    for sampler in tqdm(chosen, desc="samplers", unit="sampler"):
        how: dict[str, Any] = {"seed": seed, "batch_size": batch_size}
        canvas = model.empty_canvas(samples)
        with evaluation_mode(model), torch.no_grad():
            batches = draw_batches(
                model.network_for(canvas, to_draw=True),
                canvas,
                sampler,
                label,
                **how,
                keep=lambda state: (extractor(state.x).float().cpu(), state.calls.tolist()),
            )
            found, called = zip(*batches, strict=True)
        kind = _kind(sampler)
        name = f"{kind}, {sampler.steps} steps" if isinstance(sampler, Ancestral) else kind
        calls = [float(one) for batch in called for one in batch]
        rows.append(_row(name, kind, real, torch.cat(found), calls, classes or 1) | {"steps": _steps(sampler)})
        tqdm.write(brief(rows[-1]), sys.stderr)
    protocol = {
        "features": extractor.name,
        "reference": f"{real.count} training images of {data.name}, sha256 {data.split('train').checksum}",
        "labels": "every class in turn" if label is not None else "none",
        "data_settings": describe(data.resolved()),
        "guidance": guidance,
        "batch_size": batch_size,
        "seed": seed,
        "sampled_in": sampled_in(model),
        "error": "jackknife over 10 groups of the images: their chance, not the bias that falls with their number",
        **weights(model),
        **versions(model),
    }
    return FrechetReport(tuple(rows), protocol)


def _samplers(model: MaskedDiffusion, steps: Sequence[int], guidance: float) -> list[Sampler]:
    """Return the samplers to compare; raise a ValueError where they do not fit the model."""
    if not isinstance(model.codec, Pixels):
        raise ValueError(f"Fréchet distances are for models of images; this one's tokens are {model.codec}")
    if isinstance(model.schedule, TokenPolynomial):
        raise ValueError("Fréchet distances compare samplers of scalar schedules; the model has a state-dependent one")
    if guidance != 1 and model.network.classes is None:
        raise ValueError(f"guidance {guidance:g} is for models with classes; this one has none")
    if model.network.causal:
        return [replace(model.fit_sampler(), guidance=guidance)]
    if model.kind in OWN:
        return [replace(model.fit_sampler(), steps=count, guidance=guidance) for count in steps]  # type: ignore[call-arg]
    kinds = product((Linear(), Cosine()), GRIDS, steps)
    chosen: list[Sampler] = [Ancestral(schedule, count, grid) for schedule, grid, count in kinds]
    return [replace(sampler, guidance=guidance) for sampler in (*chosen, FirstHitting())]


def find_features(
    codec: Codec, shape: tuple[int, ...], features: str | Extractor, device: torch.device | str
) -> Extractor:
    """Return the network that looks at images, by its name.

    Args:
        codec: of the images.
        shape: of an image.
        features: see `frechet`.
        device: that it runs on.

    Raises:
        ValueError: a model of other images, or one without features before a head.
    """
    if not isinstance(features, str):
        return features
    if not isinstance(codec, Pixels):
        raise ValueError(f"features of images are for images; these tokens are {codec}")
    if features == "inception":
        return Inception(codec, torch.device(device))
    return ModelFeatures(load(features, device=str(device)), features, codec, shape)


def reference(features: Extractor, data: DataSet, batch_size: int) -> Statistics:
    """Return the statistics of the training images, from the cache if they are there."""
    split = data.split("train")
    key = json.dumps([features.name, split.checksum, describe(data.codec), data.shape])
    path = cache_folder() / "frechet" / f"{sha256(key.encode()).hexdigest()[:32]}.safetensors"
    stored = None
    if path.is_file():
        with suppress(SafetensorError, KeyError):  # damaged: made again
            stored = load_file(path)
            stored = {name: stored[name] for name in ("mean", "covariance", "count")}
    if (known := agreed(stored)) is not None:
        return Statistics(known["mean"], known["covariance"], int(known["count"]))
    with torch.no_grad():
        batches = Batches(split, batch_size)
        found = Statistics.of(
            in_order(lambda _, batch: features(batch[0]).float().cpu(), batches, title="training images")
        )
    if first():
        with replacing(path) as target:
            count = torch.tensor(found.count)
            save_file({"mean": found.mean, "covariance": found.covariance, "count": count}, str(target))
    return found


def _kind(sampler: Sampler) -> str:
    """Name the line of the figure that a sampler belongs to."""
    if isinstance(sampler, Ancestral):
        return f"{type(sampler.schedule).__name__}, {sampler.grid} grid"
    return type(sampler).__name__


def _steps(sampler: Sampler) -> int | None:
    return getattr(sampler, "steps", None)


def _row(
    name: str,
    line: str,
    real: Statistics,
    seen: Float[Tensor, "n width"],
    calls: list[float] | None,
    period: int,
) -> dict[str, Any]:
    """Return a row of the table."""
    distance = Figure.of(frechet_with_error(real, seen, period))
    mean = sum(calls) / len(calls) if calls else None
    return {"sampler": name, "line": line, "calls": mean, "images": len(seen), "distance": distance}
