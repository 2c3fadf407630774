"""What all figures have in common: one style, plain numbers at the ticks, labels at the curves."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("unmask.mplstyle")
"""A style sheet of matplotlib, for figures of your own: `matplotlib.style.use(STYLE)`."""
FEW = 4
"""Most curves that are labelled where they are; more have a legend."""

Arguments = ParamSpec("Arguments")


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Let a function draw its figure in the style of the library, whatever the caller's is."""

    @wraps(draw)
    def drawn(*arguments: Arguments.args, **settings: Arguments.kwargs) -> Figure:
        from matplotlib import style

        with style.context(STYLE):
            return draw(*arguments, **settings)

    return drawn


def plain_number(value: float) -> str:
    """Write a number as a reader says it: 0.05, 20, 5,000."""
    return f"{value:,.10g}"


def plain_log(axis: Axis, most: int = 6) -> None:
    """Make the axis logarithmic, with plain numbers at 1, 2 and 5 of each power of ten, or at powers alone if many."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})  # type: ignore[attr-defined]
    low, high = sorted(axis.get_view_interval())
    powers = np.log10(high / low) if low > 0 else 1.0
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if 3 * powers <= 2 * most else (1.0,), numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(value)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def name_curves(axes: Axes) -> None:
    """Write the name of each curve beside it, where it is farthest from the others; a legend if that fails."""
    from matplotlib.patheffects import withStroke

    lines = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    if len(lines) > FEW or any(len(np.atleast_1d(line.get_xdata())) < 2 for line in lines):  # or have no curve yet
        axes.legend()
        return
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]  # the limits are known from here on
    grid = np.linspace(0.03, 0.97, 95)
    curves = []
    for line in lines:
        x, y = axes.transAxes.inverted().transform(axes.transData.transform(line.get_xydata())).T
        curves.append(np.interp(grid, x, y, left=np.nan, right=np.nan))
    for i, (line, curve) in enumerate(zip(lines, curves, strict=True)):
        others = [np.where(np.isnan(other), 9, abs(other - curve)) for j, other in enumerate(curves) if j != i]
        apart = np.min(others, axis=0) if others else np.ones_like(grid)
        seen = np.where((curve > 0.02) & (curve < 0.9), np.minimum(apart, 0.2) - 0.1 * abs(grid - 0.5), -9)
        k = int(np.argmax(seen))
        above = not any(np.nan_to_num(curves[j][k], nan=-9) > curve[k] for j in range(len(curves)) if j != i)
        text = axes.text(
            grid[k],
            curve[k] + (0.02 if above else -0.02),
            str(line.get_label()),
            transform=axes.transAxes,
            color=line.get_color(),
            fontsize=8,
            ha="left" if grid[k] < 0.6 else "right",
            va="bottom" if above else "top",
        )
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])
