"""Figures: schedules, losses, and what was measured, as plots. Needs matplotlib (the extra `images`)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from unmask.codecs.base import Codec
from unmask.codecs.ended import Ended
from unmask.codecs.text import Characters
from unmask.display.style import colors, name_curves, styled
from unmask.schedules import Cosine, Geometric, Linear, Polynomial, Schedule, TokenPolynomial

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def schedule_figure(schedules: Sequence[Schedule] = ()) -> Figure:
    """Draw alpha_t and the weight of the loss of several schedules side by side (MD4, figure 1)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    t = torch.linspace(0, 1, 401, dtype=torch.float64)
    for schedule in schedules or (Linear(), Polynomial(2.0), Geometric(), Cosine()):
        name = (
            f"polynomial, power {schedule.power:g}"
            if isinstance(schedule, Polynomial)
            else type(schedule).__name__.lower()
        )
        left.plot(t, schedule.alpha(t), label=name)
        right.plot(t[1:], schedule.weight(t[1:]), label=name)
    left.set(xlabel="t", ylabel=r"$\alpha_t$", title="chance that a token is visible")
    right.set(xlabel="t", ylabel=r"$-\alpha_t' / (1 - \alpha_t)$", title="weight of the loss", ylim=(0, 12))
    name_curves(left)
    name_curves(right)
    return figure


@styled
def steps_figure(steps: int, length: int) -> Figure:
    """Draw how many of `length` tokens ancestral sampling reveals in each of its steps (MD4, on its sampling grids)."""
    from matplotlib.figure import Figure

    from unmask.samplers.ancestral import grid_times

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    grids: tuple[tuple[Literal["uniform", "cosine"], str], ...] = (("uniform", "-"), ("cosine", "--"))
    for grid, line in grids:  # dashes above lines: linear on the cosine grid is cosine on the uniform one
        for i, schedule in enumerate((Linear(), Polynomial(2.0), Cosine(), Geometric())):
            rate = schedule.mask_rate(grid_times(steps, grid))
            label = f"{type(schedule).__name__.lower()} schedule, {grid} grid"
            axes.plot(range(1, steps + 1), length * (rate[:-1] - rate[1:]), line, color=colors()[i], label=label)
    axes.set(xlabel="step", ylabel=f"tokens revealed, of {length}", title="on average", ylim=(0, None))
    name_curves(axes)
    return figure


@styled
def trajectory_figure(states: Sequence[torch.Tensor], vocab_size: int, symbols: Sequence[str] | None = None) -> Figure:
    """Draw how many tokens each step of a sampler revealed, and how early each token value appeared.

    Args:
        states: the canvas, then the tokens after each step: (batch, *dims), masks of value `vocab_size`.
        vocab_size: V.
        symbols: what each token value is called, for bars from early to late; None for points over values.
    """
    from matplotlib.figure import Figure

    flat = torch.stack([state.flatten(1).cpu() for state in states])
    shown = flat != vocab_size
    new = (shown[1:] & ~shown[:-1]).double()
    total = (~shown[0]).sum(1).clamp(min=1)
    place = (shown[:-1] & ~shown[0]).double().sum(2) / total  # part of the example's tokens that were there before
    count, early = torch.zeros(vocab_size, dtype=torch.float64), torch.zeros(vocab_size, dtype=torch.float64)
    for k in range(len(new)):
        at = new[k].bool()
        count.index_add_(0, flat[k + 1][at], torch.ones(int(at.sum()), dtype=torch.float64))
        early.index_add_(0, flat[k + 1][at], place[k].unsqueeze(1).expand_as(at)[at])
    mean = (early / count).numpy()
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 2))
    left.plot(range(1, len(new) + 1), new.sum(2).mean(1))
    left.set(xlabel="step", ylabel="tokens revealed, mean of the examples", ylim=(0, None))
    seen = np.flatnonzero(count.numpy())
    if symbols is None:
        right.plot(seen, mean[seen], ".")
        right.set(xlabel="token value")
    else:
        order = seen[mean[seen].argsort()].tolist()
        right.bar(range(len(order)), mean[order])
        right.set_xticks(range(len(order)), [symbols[i] for i in order], fontsize=min(10, 300 / len(order)))
    right.axhline(0.5, color="grey", linewidth=0.8)
    right.set(ylabel="part of the tokens revealed before", title="when a value appears; 0.5: any time", ylim=(0, 1))
    return figure


def symbols(codec: Codec) -> list[str] | None:
    """Return what to call each token value of a text; None where values are numbers, or more than can be written."""
    visible = {" ": "␣", "\n": "↵", "\t": "⇥"}
    if isinstance(codec, Ended) and (inside := symbols(codec.codec)) is not None:
        return [*inside, "■"]
    return [visible.get(c, c) for c in codec.alphabet] if isinstance(codec, Characters) else None


@styled
def exponent_figure(schedule: TokenPolynomial, symbols: Sequence[str] | None = None) -> Figure:
    """Draw the exponents of a state-dependent schedule, and alpha_t of each token value.

    Args:
        schedule: what was learned.
        symbols: what each token value is called, for bars in the order of the exponents; None for points over values.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    w = schedule.powers.detach().cpu().numpy()
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    if symbols is None:
        left.plot(w, "o")
        left.set(xlabel="token value")
    else:
        order = (-w).argsort().tolist()
        left.bar(range(len(w)), w[order])
        left.set_xticks(range(len(w)), [symbols[i] for i in order], fontsize=min(10, 300 / len(w)))
    left.set(ylabel="exponent w", title="large: masked late, revealed early")
    t = torch.linspace(0, 1, 201, dtype=torch.float64)
    place = w.argsort().argsort() / max(1, len(w) - 1)
    for value, alpha in enumerate(schedule.alpha(t.to(schedule.raw.device)).detach().cpu().T.numpy()):
        right.plot(t, alpha, "-", color=colormaps["viridis"](place[value]), alpha=0.7, linewidth=1)
    right.set(xlabel="t", ylabel=r"$\alpha_{t,i}$", title="chance to be visible, bright: large w")
    return figure


@styled
def loss_curve(run: Path | str) -> Figure:
    """Draw the training and validation losses of a run, in bits per token, from its CSV logs.

    Raises:
        FileNotFoundError: the folder has no logs.
    """
    from matplotlib.figure import Figure

    points: dict[str, dict[int, float]] = {"bits": {}, "valid_bits": {}}
    logs = sorted(Path(run, "logs").glob("version_*/metrics.csv"), key=lambda path: int(path.parent.name[8:]))
    for log in logs:
        with open(log, newline="") as file:
            for row in csv.DictReader(file):
                for name, series in points.items():
                    if row.get(name):
                        series[int(row["step"])] = float(row[name])
    if not points["bits"]:
        raise FileNotFoundError(f"{run}: no losses found in {Path(run, 'logs')}; is it the folder of a run?")
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (("bits", "training"), ("valid_bits", "validation, averaged weights")):
        steps = sorted(points[name])
        axes.plot(steps, [points[name][step] for step in steps], label=label, alpha=0.8)
    axes.set(xlabel="step", ylabel="negative ELBO, bits per token")
    name_curves(axes)
    return figure
