"""Kinds of models: which objectives and samplers belong to which, and what is of masked models alone."""

from typing import Literal

from unmask.networks.base import Network
from unmask.objectives.base import Objective
from unmask.objectives.score_entropy import ScoreEntropy
from unmask.processes import Scored
from unmask.samplers.base import Sampler
from unmask.samplers.score import Tweedie
from unmask.schedules import Schedule, TokenPolynomial

Kind = Literal["masked", "scores", "left-to-right"]
"""What a model is of: masks; masks, with a network that predicts scores; the next token."""


def kind_of(network: Network, schedule: Schedule | TokenPolynomial) -> Kind:
    """Return the kind of a model with this network and this schedule."""
    if network.causal:
        return "left-to-right"
    return "scores" if isinstance(schedule, Scored) else "masked"


def own_objective(network: Network, schedule: Schedule | TokenPolynomial) -> Objective | None:
    """Return the objective that bounds a model of a kind of its own; None for the others."""
    return ScoreEntropy(schedule.schedule) if isinstance(schedule, Scored) else None


def own_sampler(network: Network, schedule: Schedule | TokenPolynomial) -> Sampler | None:
    """Return the sampler of a model of a kind of its own; None for the others."""
    return Tweedie(schedule=schedule.schedule) if isinstance(schedule, Scored) else None
