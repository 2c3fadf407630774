"""Fréchet distance between the features of generated and of real images (FID, arXiv:1706.08500)."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unmask.codecs.pixels import Pixels
from unmask.model import MaskedDiffusion
from unmask.networks.head import HeadedNetwork
from unmask.processes import in_order
from unmask.types import Tokens

GROUPS = 10


@runtime_checkable
class Extractor(Protocol):
    """A network that looks at images.

    Attributes:
        name: what identifies it.
    """

    name: str

    def __call__(self, x: Tokens) -> Tensor:
        """Map images as tokens (batch, height, width, channels) to features (batch, width)."""


@dataclass(frozen=True)
class Statistics:
    """A normal distribution fitted to features.

    Attributes:
        mean: (width,).
        covariance: (width, width), unbiased.
        count: number of images.
    """

    mean: Float[Tensor, " width"]
    covariance: Float[Tensor, "width width"]
    count: int

    @classmethod
    def of(cls, batches: Iterable[Tensor]) -> "Statistics":
        """Fit features that come some at a time, (n, width) each; only their sums are kept.

        Raises:
            ValueError: fewer than two images.
        """
        count, centre, first, second = 0, None, torch.zeros(()), torch.zeros(())
        for features in batches:
            centre = features.double().mean(0) if centre is None else centre  # near the mean, so that sums stay exact
            x = features.double() - centre
            count, first, second = count + len(x), first + x.sum(0), second + x.T @ x
        if centre is None or count < 2:
            raise ValueError(f"at least 2 images are needed to fit a distribution, got {count}")
        mean = first / count
        return cls(centre + mean, (second - count * torch.outer(mean, mean)) / (count - 1), count)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Return |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) between two normal distributions."""
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    return float((a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross)


def frechet_with_error(
    real: Statistics, features: Float[Tensor, "n width"], period: int = 1
) -> tuple[float, float | None]:
    """Return the distance of generated features to the real ones, and its standard error by a jackknife of groups.

    The error is that of the generated images' chance alone. The distance is biased upwards, the more the fewer images
    there are: compare only what was computed from equally many.

    Args:
        real: what they are compared with.
        features: of the generated images.
        period: images in a row that belong together, one of each class; no group tears them apart.
    """
    value = frechet_distance(real, Statistics.of([features]))
    if len(features) < 2 * GROUPS * period:
        return value, None
    number = torch.arange(len(features), device=features.device) // period % GROUPS
    without = torch.tensor([frechet_distance(real, Statistics.of([features[number != i]])) for i in range(GROUPS)])
    return value, math.sqrt((GROUPS - 1) / GROUPS * float((without - without.mean()).square().sum()))


def gather(extractor: Callable[[Tokens], Tensor], batches: Iterable[Tensor]) -> Float[Tensor, "n width"]:
    """Return the features of all images, on the CPU; several processes share them (`unmask.processes.together`)."""
    with torch.no_grad():
        return torch.cat([*in_order(lambda _, x: extractor(x).float().cpu(), batches)])


class Inception:
    """The network that published figures use, by torch-fidelity; its weights are downloaded the first time.

    Raises:
        ImportError: torch-fidelity is not installed.
        ConnectionError: its weights cannot be had.
    """

    name = "inception-v3-compat, 2048 features"

    def __init__(self, codec: Pixels, device: torch.device) -> None:
        try:
            from torchmetrics.image.fid import NoTrainInceptionV3

            self.network: Any = NoTrainInceptionV3("inception-v3-compat", ["2048"])
        except (ImportError, ModuleNotFoundError):
            raise ImportError(
                "the Inception network needs torch-fidelity: pip install 'unmask[fid]', "
                "or give the folder of another model of images"
            ) from None
        except OSError as error:
            raise ConnectionError(
                f"the Inception network's weights cannot be downloaded ({error}); give the folder of another "
                "model of images"
            ) from None
        self.codec, self.device = codec, device
        self.network.to(device)

    def __call__(self, x: Tokens) -> Tensor:
        pixels = self.codec.decode(x)
        pixels = np.broadcast_to(pixels, (*pixels.shape[:3], 3)).transpose(0, 3, 1, 2)
        return self.network(torch.from_numpy(pixels.copy()).to(self.device))


class ModelFeatures:
    """The features before the head of a model of images, averaged over the image; its figures compare with no others.

    Raises:
        ValueError: the model is not of such images, or has no such features.
    """

    def __init__(self, model: MaskedDiffusion, name: str, codec: Pixels, shape: tuple[int, ...]) -> None:
        if not isinstance(model.network, HeadedNetwork):
            raise ValueError(f"{name}: its network, {type(model.network).__name__}, has no features before a head")
        if not isinstance(model.codec, Pixels):
            raise ValueError(f"{name} is no model of images: its tokens are {model.codec}")
        if model.codec != codec or model.shape != shape:
            raise ValueError(
                f"{name} is of images {model.shape} with {model.codec.vocab_size} levels, not {shape} with "
                f"{codec.vocab_size}"
            )
        digest = sha256()
        for part in model.state_dict().values():
            digest.update(part.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        self.network, self.device = model.network, model.device
        self.name = f"{name}, mean of the features before the head (weights {digest.hexdigest()[:12]})"

    def __call__(self, x: Tokens) -> Tensor:
        noise = torch.zeros(len(x), dtype=torch.float64, device=self.device)
        return self.network.features(x.to(self.device), noise).mean(1)
