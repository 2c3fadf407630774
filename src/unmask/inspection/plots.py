"""Figures of schedules and of how samples are unmasked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unmask.display.figures import exponent_figure, schedule_figure, symbols, trajectory_figure
from unmask.display.output import Film
from unmask.kinds import require_masked
from unmask.model import MaskedDiffusion
from unmask.samplers.base import Sampler
from unmask.samplers.draw import draw
from unmask.schedules import TokenPolynomial

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_schedules(model: MaskedDiffusion | None = None) -> Figure:
    """Draw the schedules of the papers side by side, or a model's own, with what it learned."""
    if model is None:
        return schedule_figure()
    if isinstance(model.schedule, TokenPolynomial):
        return exponent_figure(model.schedule, symbols(model.codec))
    return schedule_figure([model.schedule])


def plot_trajectory(
    model: MaskedDiffusion,
    *,
    samples: int = 16,
    label: str | int | None = None,
    sampler: Sampler | None = None,
    seed: int = 0,
) -> Figure:
    """Draw how many tokens of new samples are revealed in each step, and how early each token value appears.

    Args:
        model: that is sampled.
        samples: number of samples.
        label: class of all of them; see `MaskedDiffusion.labels`.
        sampler: the model's own if None.
        seed: of the samples.
    """
    require_masked(model.kind, "the plot of a trajectory, which is of what is unmasked when,")
    film, labels, sampler = Film(), model.labels(label, samples), model.fit_sampler(sampler)
    canvas = model.empty_canvas(samples, seed, label=labels)
    draw(model.network_for(canvas), canvas, labels, sampler=sampler, seed=seed, batch_size=samples, watch=film)
    return trajectory_figure(film.states, model.network.vocab_size, symbols(model.codec))
