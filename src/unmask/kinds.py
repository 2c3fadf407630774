"""Kinds of models: which objectives and samplers belong to which, and what is of masked models alone."""

from dataclasses import replace
from typing import Any, Literal

from unmask.networks.base import Network
from unmask.noise import Replacing, Scored
from unmask.objectives.base import Objective
from unmask.objectives.gaussian import GaussianELBO
from unmask.objectives.score_entropy import ScoreEntropy
from unmask.objectives.uniform import UniformELBO
from unmask.samplers.base import Sampler
from unmask.samplers.gaussian import GaussianAncestral
from unmask.samplers.score import Tweedie
from unmask.samplers.uniform import UniformAncestral
from unmask.schedules import Schedule, TokenPolynomial

Kind = Literal["masked", "left-to-right", "uniform", "vectors"]
"""What a model's tokens are: masked, read one after another, replaced by uniformly random ones, or noisy vectors."""
OWN: dict[Kind, tuple[type[Objective], type[Sampler], str]] = {
    "uniform": (UniformELBO, UniformAncestral, "its tokens are replaced by random ones, not masked"),
    "vectors": (GaussianELBO, GaussianAncestral, "its tokens are vectors with noise, not masked"),
}
"""The one objective and the one sampler of a kind, and what it is."""


def kind_of(network: Network, schedule: Schedule | TokenPolynomial) -> Kind:
    """Return the kind of a model with this network and this schedule."""
    if network.causal:
        return "left-to-right"
    if network.vectors:
        return "vectors"
    return "uniform" if isinstance(schedule, Replacing) else "masked"


def own_objective(network: Network, schedule: Schedule | TokenPolynomial) -> Objective | None:
    """Return the objective that a model is bounded by, if its network or schedule names one; else None."""
    if network.vectors:
        return GaussianELBO()
    if isinstance(schedule, Replacing):
        return UniformELBO(schedule.schedule, schedule.steps)
    return ScoreEntropy(schedule.schedule) if isinstance(schedule, Scored) else None


def own_sampler(network: Network, schedule: Schedule | TokenPolynomial) -> Sampler | None:
    """Return the sampler of a model, if its network or schedule names one; else None."""
    if network.vectors:
        return GaussianAncestral()
    if isinstance(schedule, Replacing):
        return UniformAncestral(schedule.schedule, schedule.steps)
    return Tweedie(schedule.schedule) if isinstance(schedule, Scored) else None


def check_belongs(thing: Objective | Sampler, kind: Kind) -> None:
    """Raise a ValueError for an objective or a sampler of another kind of model."""
    name, part = type(thing).__name__, "objective" if isinstance(thing, Objective) else "sampler"
    if kind in OWN:
        objective, sampler, what = OWN[kind]
        own = objective if isinstance(thing, Objective) else sampler
        if not isinstance(thing, own):
            raise ValueError(f"this model is not a masked one, {what}: its {part} is {own.__name__}, got {name}")
    for objective, sampler, what in OWN.values():
        if isinstance(thing, objective | sampler) and kind not in OWN:
            raise ValueError(f"{name} is not for this model, but for one of another kind: {what}")


def fit_redrawing(
    sampler: Sampler | None,
    network: Network,
    schedule: Schedule | TokenPolynomial,
    filling: tuple[int, ...],
    known: bool,
) -> Sampler:
    """Return the sampler of a model whose tokens are not masked, or the one given with what it leaves open filled in.

    Args:
        sampler: given.
        network, schedule: of the model.
        filling: tokens that canvases may show; see `Redrawing`.
        known: whether canvases may show other tokens, too.
    """
    own = own_sampler(network, schedule)
    chosen: Any = sampler or own
    missing = {name: getattr(own, name) for name in ("schedule", "steps") if getattr(chosen, name, 0) is None}
    return replace(chosen, **missing, known=chosen.known or known, filling=chosen.filling or filling)


def require_masked(kind: Kind, what: str) -> None:
    """Raise a ValueError, beginning with what is wanted, for a model that is neither masked nor left-to-right."""
    if kind in OWN:
        raise ValueError(f"{what} is not for this model: {OWN[kind][2]}")
