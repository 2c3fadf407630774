"""Kinds of models: which objectives and samplers belong to which, and what is of masked models alone."""

from dataclasses import replace
from typing import Any, Literal

from unmask.networks.base import Network
from unmask.objectives.base import Objective
from unmask.objectives.score_entropy import ScoreEntropy
from unmask.objectives.uniform import UniformELBO
from unmask.processes import Replacing, Scored
from unmask.samplers.base import Sampler
from unmask.samplers.score import Tweedie
from unmask.samplers.uniform import UniformAncestral
from unmask.schedules import Schedule, TokenPolynomial

Kind = Literal["masked", "left-to-right", "uniform"]
"""What a model's tokens are: masked, read one after another, or replaced by uniformly random ones."""
OWN: dict[Kind, tuple[type[Objective], type[Sampler], str]] = {
    "uniform": (UniformELBO, UniformAncestral, "its tokens are replaced by random ones, not masked"),
}
"""The one objective and the one sampler of a kind, and what it is."""


def kind_of(network: Network, schedule: Schedule | TokenPolynomial) -> Kind:
    """Return the kind of a model with this network and this schedule."""
    if network.causal:
        return "left-to-right"
    return "uniform" if isinstance(schedule, Replacing) else "masked"


def own_objective(schedule: Schedule | TokenPolynomial) -> Objective | None:
    """Return the objective that a model is bounded by, if its schedule names one; else None."""
    if isinstance(schedule, Replacing):
        return UniformELBO(schedule.schedule, schedule.steps)
    return ScoreEntropy(schedule.schedule) if isinstance(schedule, Scored) else None


def own_sampler(schedule: Schedule | TokenPolynomial) -> Sampler | None:
    """Return the sampler of a model, if its schedule names one; else None."""
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
    sampler: Sampler | None, schedule: Schedule | TokenPolynomial, filling: tuple[int, ...], known: bool
) -> Sampler:
    """Return the sampler of a model whose tokens are not masked, or the one given with what it leaves open filled in.

    Args:
        sampler: given.
        schedule: of the model.
        filling: tokens that canvases may show; see `Redrawing`.
        known: whether canvases may show other tokens, too.
    """
    own = own_sampler(schedule)
    chosen: Any = sampler or own
    missing = {name: getattr(own, name) for name in ("schedule", "steps") if getattr(chosen, name, 0) is None}
    return replace(chosen, **missing, known=chosen.known or known, filling=chosen.filling or filling)


def require_masked(kind: Kind, what: str) -> None:
    """Raise a ValueError, beginning with what is wanted, for a model that is neither masked nor left-to-right."""
    if kind in OWN:
        raise ValueError(f"{what} is not for this model: {OWN[kind][2]}")
