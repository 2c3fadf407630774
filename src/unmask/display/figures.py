"""Figures: schedules, losses, and what was measured, as plots. Needs matplotlib (the extra `images`)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unmask.codecs.base import Codec
from unmask.codecs.ended import Ended
from unmask.codecs.text import Characters
from unmask.schedules import Cosine, Geometric, Linear, Polynomial, Schedule, TokenPolynomial

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    left.legend()
    return figure


def steps_figure(steps: int, length: int) -> Figure:
    """Draw how many of `length` tokens ancestral sampling reveals in each of its steps (MD4, on its sampling grids)."""
    from matplotlib.figure import Figure

    from unmask.samplers.ancestral import grid_times

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for schedule in (Linear(), Polynomial(2.0), Cosine(), Geometric()):
        for grid in ("uniform", "cosine"):
            rate = schedule.mask_rate(grid_times(steps, grid))
            label = f"{type(schedule).__name__.lower()} schedule, {grid} grid"
            axes.plot(range(1, steps + 1), length * (rate[:-1] - rate[1:]), label=label)
    axes.set(xlabel="step", ylabel=f"tokens revealed, of {length}", title="on average", ylim=(0, None))
    axes.legend()
    return figure


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


def _values(figures: Sequence[Sequence[Any]]) -> tuple[list[float], list[float]]:
    """Return the values of figures [value, standard error], and their errors, 0 where they are not known."""
    return [value for value, _ in figures], [error or 0.0 for _, error in figures]


def study_figure(rows: Sequence[dict[str, Any]], real: dict[str, Any], unit: str) -> Figure:
    """Draw the figures of a study of samplers against network calls, and those of test data as a line.

    Args:
        rows: `sampler`, `calls`, and where known `entropy`, `judge`, `bound`, `temperature`, as [value, error].
        real: the same of test data.
        unit: what a token is called.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    titles = {
        "judge": f"n-gram judge, nats per {unit}",
        "bound": f"the model's own bound, nats per {unit}",
        "entropy": "entropy of an example's tokens, nats",
        "temperature": "effective temperature",
    }
    shown = [name for name in titles if any(row.get(name) for row in rows)]
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kind, _, rest = row["sampler"].partition("(")
        named = [part for part in rest.rstrip(")").split(", ") if part.split("=")[0] in ("order", "form", "precision")]
        kinds.setdefault(" ".join((kind, *named)), []).append(row)
    figure = Figure(figsize=(5 * len(shown), 4.6), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        for i, (kind, members) in enumerate(kinds.items()):
            known = sorted((row["calls"], *row[name]) for row in members if row.get(name))
            if known:
                values, spread = _values([(value, error) for _, value, error in known])
                style = {"color": colormaps["tab20"](i % 20), "marker": "osv^D*"[i % 6], "linewidth": 0.8}
                axes.errorbar([row[0] for row in known], values, spread, label=kind, capsize=2, **style)
        if real.get(name):
            axes.axhline(real[name][0], color="black", linestyle=":", label="test data")
        axes.set(xscale="log", xlabel="network calls an example", title=titles[name])
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def symbols(codec: Codec) -> list[str] | None:
    """Return what to call each token value of a text; None where values are numbers, or more than can be written."""
    visible = {" ": "␣", "\n": "↵", "\t": "⇥"}
    if isinstance(codec, Ended) and (inside := symbols(codec.codec)) is not None:
        return [*inside, "■"]
    return [visible.get(c, c) for c in codec.alphabet] if isinstance(codec, Characters) else None


def breakdown_figure(
    position: torch.Tensor, value: torch.Tensor, counts: torch.Tensor, shape: tuple[int, ...], codec: Codec
) -> Figure:
    """Draw where the bits go: at each position, as a map for images, and for each token value, with how often it comes.

    Args:
        position: mean bits at each position, (L,).
        value: mean bits of a token of each value, (V,).
        counts: number of tokens of each value, (V,).
        shape: dims of an example.
        codec: says what a token is.
    """
    from matplotlib.figure import Figure

    bits, mean, many = position.numpy(), value.numpy(), counts.numpy()
    if len(shape) == 3:
        figure = Figure(figsize=(4 * shape[2] + 6, 3.6), layout="constrained")
        *maps, right = figure.subplots(1, shape[2] + 1, width_ratios=[1] * shape[2] + [1.6])
        image = bits.reshape(shape)
        for channel, axes in enumerate(maps):
            drawn = axes.imshow(image[..., channel], vmin=0, vmax=image.max())
            named = {1: "", 3: f", {('red', 'green', 'blue')[channel % 3]}"}.get(shape[2], f", channel {channel}")
            axes.set(title=f"bits at each pixel{named}", xticks=[], yticks=[])
        figure.colorbar(drawn, ax=maps)
    else:
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(bits, linewidth=0.8)
        left.set(xlabel="position", ylabel=f"bits per {codec.unit}", ylim=(0, None))
    seen = np.flatnonzero(many)
    names = symbols(codec)
    if names is None:
        right.plot(seen, mean[seen], ".", markersize=4)
        right.set(xlabel="token value")
    else:
        seen = seen[(-mean[seen]).argsort()]
        right.bar(range(len(seen)), mean[seen])
        right.set_xticks(range(len(seen)), [names[i] for i in seen], fontsize=min(10, 300 / len(seen)))
    right.set(ylabel=f"bits per {codec.unit} of that value", ylim=(0, None))
    share = right.twinx()
    share.plot(range(len(seen)) if names else seen, many[seen] / many.sum(), color="grey", linewidth=0.8)
    share.set(ylabel="share of the tokens (grey)", yscale="log")
    return figure


def distance_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw Fréchet distances against network calls, a line for each schedule and grid.

    Args:
        rows: `line` (which row belongs to which line), `calls` (None for real images) and `distance` as [value,
            standard error].
    """
    from matplotlib.figure import Figure

    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["line"], []).append(row)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for i, (kind, members) in enumerate(kinds.items()):
        values, spread = _values([row["distance"] for row in members])
        if members[0]["calls"] is None:
            axes.axhline(values[0], color="black", linestyle=":", label=kind)
        else:
            calls = [row["calls"] for row in members]
            axes.errorbar(calls, values, spread, label=kind, marker="osv^D*"[i % 6], linewidth=0.8, capsize=2)
    axes.set(xscale="log", yscale="log", xlabel="network calls an image", ylabel="Fréchet distance")
    axes.legend(fontsize=8)
    return figure


def frontier_figure(rows: Sequence[dict[str, Any]], data: dict[str, Any] | None, judge: str) -> Figure:
    """Draw perplexity under a judge against entropy, a point for each temperature: better is to the lower right.

    Args:
        rows: `temperature`, `perplexity_micro` and `entropy`, the latter as [value, standard error].
        data: the same of real texts, drawn as a star.
        judge: its name.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    points = sorted(rows, key=lambda row: row["temperature"])
    (x, dx), (y, dy) = (_values([row[name] for row in points]) for name in ("entropy", "perplexity_micro"))
    axes.errorbar(x, y, dy, dx, marker="o", linewidth=0.8, capsize=2, label="samples, by temperature")
    for row in points:
        place = (row["entropy"][0], row["perplexity_micro"][0])
        axes.annotate(f"{row['temperature']:g}", place, (4, 4), textcoords="offset points", fontsize=8)
    if data:
        axes.errorbar(data["entropy"][0], data["perplexity_micro"][0], marker="*", markersize=12, label=data["name"])
    axes.set(yscale="log", xlabel="entropy of a sample's tokens, nats", ylabel=f"perplexity under {Path(judge).name}")
    axes.legend(fontsize=8)
    return figure


def exponent_figure(schedule: TokenPolynomial, symbols: Sequence[str] | None = None) -> Figure:
    """Draw the exponents of a state-dependent schedule, and alpha_t of each token value.

    Args:
        schedule: what was learned.
        symbols: what each token value is called, for bars in the order of the exponents; None for a curve over values.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    w = schedule.powers.detach().cpu().numpy()
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    if symbols is None:
        left.plot(w, marker=".")
        left.set(xlabel="token value")
    else:
        order = (-w).argsort().tolist()
        left.bar(range(len(w)), w[order])
        left.set_xticks(range(len(w)), [symbols[i] for i in order], fontsize=min(10, 300 / len(w)))
    left.set(ylabel="exponent w", title="large: masked late, revealed early")
    t = torch.linspace(0, 1, 201, dtype=torch.float64)
    place = w.argsort().argsort() / max(1, len(w) - 1)
    for value, alpha in enumerate(schedule.alpha(t.to(schedule.raw.device)).detach().cpu().T.numpy()):
        right.plot(t, alpha, color=colormaps["viridis"](place[value]), alpha=0.7, linewidth=1)
    right.set(xlabel="t", ylabel=r"$\alpha_{t,i}$", title="chance to be visible, bright: large w")
    return figure


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
    axes.legend()
    return figure
