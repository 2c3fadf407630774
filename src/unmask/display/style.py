"""What all figures have in common: one style, plain numbers at the ticks, labels at the curves."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from itertools import product
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
GAP = 0.02
"""Between a curve and its name, as a part of the axes."""

Arguments = ParamSpec("Arguments")
Box = tuple[float, float, float, float]
"""Left, bottom, right and top, as parts of the axes."""


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Let a function draw its figure in the style of the library, whatever the caller's is."""

    @wraps(draw)
    def drawn(*arguments: Arguments.args, **settings: Arguments.kwargs) -> Figure:
        from matplotlib import style

        with style.context(STYLE):
            return draw(*arguments, **settings)

    return drawn


def colors() -> list[str]:
    """Return the colours of the style; a name such as "C0" is looked up when a figure is saved, in the caller's."""
    from matplotlib import rcParams

    return rcParams["axes.prop_cycle"].by_key()["color"]


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
    """Write the name of each curve beside it, clear of the others where possible; a legend if there are too many."""
    from matplotlib.patheffects import withStroke

    lines = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    if len(lines) > FEW or any(len(np.atleast_1d(line.get_xdata())) < 2 for line in lines):  # or have no curve yet
        axes.legend()
        return
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]  # the limits are known from here on
    grid = np.linspace(0, 1, 401)
    curves = []
    for line in lines:
        x, y = axes.transAxes.inverted().transform(axes.transData.transform(line.get_xydata())).T
        curves.append(np.interp(grid, x, y, left=np.nan, right=np.nan))
    taken: list[Box] = []
    for i, line in enumerate(lines):
        text = axes.text(0, 0, str(line.get_label()), transform=axes.transAxes, color=line.get_color(), fontsize=8)
        extent = text.get_window_extent()
        size = float(extent.width / axes.bbox.width), float(extent.height / axes.bbox.height)
        box = _place(size, grid, curves[i], [*curves[:i], *curves[i + 1 :]], taken)
        if box is None:
            for one in axes.texts[-i - 1 :]:
                one.remove()
            axes.legend()
            return
        taken.append(box)
        text.set(position=box[:2], va="bottom")
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])


def _place(
    size: tuple[float, float], grid: np.ndarray, curve: np.ndarray, others: list[np.ndarray], taken: list[Box]
) -> Box | None:
    """Return where a name fits beside its curve, as far as may be from the others; None if nowhere within the axes."""
    best, found = -np.inf, None
    for k in np.flatnonzero(~np.isnan(curve))[::4]:
        beside = (curve[k] + sign * far * GAP - (sign < 0) * size[1] for sign, far in product((1, -1), (1, 1.5, 2.5)))
        for left, low in product((grid[k], grid[k] - size[0] / 2, grid[k] - size[0]), beside):
            box = (float(left), float(low), float(left) + size[0], float(low) + size[1])
            if min(box) < 0.01 or max(box) > 0.98 or any(_overlap(box, other) for other in taken):
                continue
            near = (grid > left - GAP / 2) & (grid < box[2] + GAP / 2)
            own, *apart = (_outside(box, one[near]) for one in (curve, *others))
            clear = min([0.1, *(float(np.nanmin(one, initial=1.0)) for one in apart)])
            crossed = sum(float(np.mean(one == 0)) for one in apart)  # part of the name, on other curves
            nearest = float(np.nanmin(own, initial=1.0))
            score = clear - crossed - nearest - 0.02 * abs(grid[k] - 0.5)
            if nearest > GAP / 4 and score > best:
                best, found = score, box
    return found


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _outside(box: Box, y: np.ndarray) -> np.ndarray:
    """Return how far values are above or below a box, 0 within."""
    return np.maximum(0, np.maximum(box[1] - y, y - box[3]))
