"""What stands in a model's schedule where its network predicts scores, or its tokens are replaced, not masked."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from unmask.checks import check_whole
from unmask.schedules import Linear, Schedule
from unmask.types import Logits


@dataclass(frozen=True)
class Wrapped(Schedule):
    """Another schedule, of a model of another kind.

    Args:
        schedule: gives α.
    """

    schedule: Schedule = field(default_factory=Linear)

    def alpha(self, t: Tensor) -> Tensor:
        return self.schedule.alpha(t)

    def inverse(self, alpha: Tensor) -> Tensor:
        return self.schedule.inverse(alpha)

    def mask_rate(self, t: Tensor) -> Tensor:
        return self.schedule.mask_rate(t)

    def weight(self, t: Tensor) -> Tensor:
        return self.schedule.weight(t)


@dataclass(frozen=True)
class Scored(Wrapped):
    """Masking by another schedule, for a network that predicts concrete scores (`ScoreEntropy`)."""


@dataclass(frozen=True)
class Replacing(Wrapped):
    """Tokens are replaced by uniformly random ones, not masked: α is the probability that one is kept (`UniformELBO`).

    Args:
        schedule: gives α.
        steps: T, of the model's bound.
    """

    steps: int = 1000
    of_masks: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_whole(1, steps=self.steps)


def log_scores(f: Logits) -> Float[Tensor, "*rows vocab"]:
    """Return log p̃ = f − log V of a network that predicts scores: log s but for log α / (1 − α); see `ScoreEntropy`."""
    return (f if f.dtype.itemsize >= torch.float32.itemsize else f.float()) - math.log(f.shape[-1])
