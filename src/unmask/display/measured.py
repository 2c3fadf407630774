"""Figures of what was measured: samplers, likelihoods, distances. Needs matplotlib (the extra `images`)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unmask.codecs.base import Codec
from unmask.display.figures import symbols
from unmask.display.style import colors, name_curves, plain_log, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BUDGET = ("steps", "tokens_per_call", "bound")
"""Settings of samplers that say how many network calls they take: points that differ in these alone are one curve."""
MARKERS = "os^Dv*Pp<>h8"


def _values(figures: Sequence[Sequence[Any]]) -> tuple[list[float], list[float]]:
    """Return the values of figures [value, standard error], and their errors, 0 where they are not known."""
    return [value for value, _ in figures], [error or 0.0 for _, error in figures]


def curve_of(sampler: str) -> tuple[str, str]:
    """Return the class of a sampler, as a row of a study names it, and its settings other than the number of calls.

    Examples:
        >>> from unmask.display.measured import curve_of
        >>> curve_of("FirstHitting(tokens_per_call=8, order=2)")
        ('FirstHitting', 'order=2')
    """
    kind, _, rest = sampler.partition("(")
    settings = re.split(r", (?=\w+=)", rest.removesuffix(")"))
    return kind, ", ".join(setting for setting in settings if setting.partition("=")[0] not in BUDGET)


@styled
def study_figure(rows: Sequence[dict[str, Any]], real: dict[str, Any], unit: str) -> Figure:
    """Draw the figures of a study of samplers against network calls, and those of test data as a line.

    A colour is a class of samplers, a marker its settings. Lines join what differs in the number of calls alone.

    Args:
        rows: `sampler`, `calls`, and where known `entropy`, `judge`, `bound`, `temperature`, as [value, error].
        real: the same of test data.
        unit: what a token is called.
    """
    from matplotlib.figure import Figure

    titles = {
        "judge": f"n-gram judge, nats per {unit}",
        "bound": f"the model's own bound, nats per {unit}",
        "entropy": "entropy of an example's tokens, nats",
        "temperature": "effective temperature",
    }
    shown = [name for name in titles if any(row.get(name) for row in rows)]
    curves: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        curves.setdefault(curve_of(row["sampler"]), []).append(row)
    kinds = list(dict.fromkeys(kind for kind, _ in curves))
    figure = Figure(figsize=(5 * len(shown), 4.6), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        for i, ((kind, settings), members) in enumerate(sorted(curves.items())):
            known = sorted((row["calls"], *row[name]) for row in members if row.get(name))
            if known:
                values, spread = _values([(value, error) for _, value, error in known])
                style = {"color": colors()[kinds.index(kind) % len(colors())], "marker": MARKERS[i % len(MARKERS)]}
                label = f"{kind}, {settings}" if settings else kind
                axes.errorbar([row[0] for row in known], values, spread, label=label, linestyle="-", **style)
        if real.get(name):
            axes.axhline(real[name][0], color="black", linestyle=":", label="test data")
        axes.set(xlabel="network calls per example", title=titles[name])
        plain_log(axes.xaxis)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled
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

    bits = position.numpy()
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
    _draw_values(right, value.numpy(), counts.numpy(), codec)
    return figure


def _draw_values(axes: Axes, mean: np.ndarray, many: np.ndarray, codec: Codec) -> None:
    """Draw the bits of each token value that occurs, and its share of the tokens."""
    seen = np.flatnonzero(many)
    names = symbols(codec)
    if names is None:
        axes.plot(seen, mean[seen], ".", markersize=4)
        axes.set(xlabel="token value")
    else:
        seen = seen[(-mean[seen]).argsort()]
        axes.bar(range(len(seen)), mean[seen])
        axes.set_xticks(range(len(seen)), [names[i] for i in seen], fontsize=min(10, 300 / len(seen)))
    axes.set(ylabel=f"bits per {codec.unit} of that value", ylim=(0, None))
    share = axes.twinx()
    share.plot(range(len(seen)) if names else seen, many[seen] / many.sum(), color="grey", linewidth=0.8)
    share.set(ylabel="share of the tokens (grey)")
    share.spines.right.set_visible(True)
    plain_log(share.yaxis)


@styled
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
            axes.errorbar(calls, values, spread, label=kind, marker=MARKERS[i % len(MARKERS)])
    axes.set(xlabel="network calls per image", ylabel="Fréchet distance")
    plain_log(axes.xaxis)
    plain_log(axes.yaxis)
    axes.legend()
    return figure


@styled
def learning_figure(curves: Mapping[str, Sequence[Sequence[tuple[float, float, float]]]]) -> Figure:
    """Draw what is learned in a time, and from so many tokens: a colour for each name, a line for each of its runs.

    Args:
        curves: by name, the (seconds, millions of tokens, validation bits) of each run.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    both = figure.subplots(1, 2, sharey=True)
    for axes, column, label in zip(both, (0, 1), ("seconds of training", "million tokens"), strict=True):
        for k, (name, runs) in enumerate(curves.items()):
            for i, run in enumerate(runs):
                x, bits = [point[column] for point in run], [point[2] for point in run]
                axes.plot(x, bits, "-", color=colors()[k], marker=MARKERS[k], label="_" if i else name)
        axes.set(xlabel=label, xlim=(0, None))
    both[0].set(ylabel="bits per token, validation")
    for axes in both:
        name_curves(axes)
    return figure


@styled
def frontier_figure(rows: Sequence[dict[str, Any]], data: dict[str, Any] | None, judge: str) -> Figure:
    """Draw perplexity under a judge against entropy: better is to the lower right.

    Points are joined where they have a `line`, whose points differ in the number of network calls alone.

    Args:
        rows: `perplexity_micro` and `entropy`, as [value, standard error]; `point`, what the point is called, or
            `temperature`; `line`, the curve that it belongs to.
        data: the same of real texts, drawn as a star.
        judge: its name.
    """
    from matplotlib.figure import Figure

    lines: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault(row.get("line", ""), []).append(row)
    figure = Figure(figsize=(6, 4) if len(lines) < 4 else (8, 5), layout="constrained")
    axes = figure.subplots()
    for i, (line, points) in enumerate(lines.items()):
        (x, dx), (y, dy) = (_values([row[name] for row in points]) for name in ("entropy", "perplexity_micro"))
        look: dict[str, Any] = {"marker": MARKERS[i % len(MARKERS)], "color": colors()[i % len(colors())]}
        axes.errorbar(x, y, dy, dx, linestyle="-" if line else "none", label=line or "_", **look)
        for k, row in enumerate(points):
            point = row["point"] if "point" in row else f"{'temperature ' if k == 0 else ''}{row['temperature']:g}"
            _name_point(axes, point, row["entropy"][0], row["perplexity_micro"][0])
    if data:
        place = (data["entropy"][0], data["perplexity_micro"][0])
        axes.plot(*place, marker="*", markersize=12, linestyle="none", color="black")
        _name_point(axes, data["name"], *place)
    axes.set(xlabel="entropy of a sample's tokens, nats", ylabel=f"perplexity under {Path(judge).name}")
    plain_log(axes.yaxis)
    if any(lines):
        axes.legend(fontsize=7)
    return figure


def _name_point(axes: Axes, name: str, x: float, y: float) -> None:
    """Write a name to the lower right of a point: curves go to the upper right."""
    axes.annotate(name, (x, y), (6, -4), textcoords="offset points", va="top", fontsize=8)
