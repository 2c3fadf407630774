"""Objectives: upper bounds on -log p(x), in nats per example, and of left-to-right models -log p(x) itself."""

from unmask.objectives.base import Loss, Objective
from unmask.objectives.estimate import draw_loss
from unmask.objectives.gaussian import GaussianELBO
from unmask.objectives.next_token import NextToken
from unmask.objectives.scalar import ContinuousELBO, DiscreteELBO, TimeFreeELBO
from unmask.objectives.score_entropy import ScoreEntropy
from unmask.objectives.token import TokenELBO
from unmask.objectives.uniform import HybridELBO, UniformELBO

__all__ = [
    "ContinuousELBO",
    "DiscreteELBO",
    "GaussianELBO",
    "HybridELBO",
    "Loss",
    "NextToken",
    "Objective",
    "ScoreEntropy",
    "TimeFreeELBO",
    "TokenELBO",
    "UniformELBO",
    "draw_loss",
]
