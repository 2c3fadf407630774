"""The report of a table: our rows beside the published ones, and the curves of their validation."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.display.measured import MARKERS, distance_figure, frontier_figure
from unmask.display.style import colors, styled
from unmask.report import Figure, Report, finite
from unmask.reproduction.table import Row, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

Curve = tuple[list[float], list[float]]
"""Minutes of training, or steps, and bits per token of the validation part."""


@dataclass(frozen=True)
class Reproduction(Report):
    """Our rows of a table, and the published ones.

    Args:
        rows, protocol: see `Report`. A row of ours has `seeds` models; `±` is the standard error of their mean or, of
            one model, that of its measurement. `test error` is the standard error over the examples of the test part,
            which the seeds, and all rows, have in common.
        curves: of each row, one a seed.
        timed: whether they are over minutes, not steps.
        results: what was found of each seed of each row, for the JSON.
        points: of the figure, where samples are measured; that of real data is the first.
    """

    curves: dict[str, list[Curve]] = field(default_factory=dict)
    timed: bool = True
    results: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    points: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> str:
        """See `Report.to_json`; with the key "results": what was found of each seed of each row."""
        content = json.loads(super().to_json()) | {"results": finite(self.results)}
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def figure(self) -> Picture:
        """Draw the validation curves of all rows that were trained or, of samples, what the judge says of them.

        Raises:
            ValueError: there are neither.
        """
        if self.points and "distance" in self.points[0]:
            return distance_figure(self.points)
        if self.points:
            return frontier_figure(self.points[1:], self.points[0], self.protocol["judge"])
        if not any(self.curves.values()):
            raise ValueError("no row was trained: there are no curves")
        return curves_figure(self.curves, self.timed)


@styled
def curves_figure(curves: Mapping[str, Sequence[Curve]], timed: bool) -> Picture:
    """Draw curves of validation, those of a row in one colour, with one marker."""
    from matplotlib.figure import Figure as NewPicture

    picture = NewPicture(figsize=(8, 4.5), layout="constrained")
    axes = picture.subplots()
    for i, (title, runs) in enumerate(curves.items()):
        look: dict[str, Any] = {"color": colors()[i % len(colors())], "marker": MARKERS[i % len(MARKERS)]}
        for k, (x, y) in enumerate(runs):
            label = title if k == 0 else f"_{title}"
            axes.plot(x, y, "-", **look, markersize=3, linewidth=1, label=label)
    axes.set(xlabel="minutes of training" if timed else "step", ylabel="validation, bits per token")
    axes.legend(fontsize=7, ncols=2)
    return picture


def curve_of(run: Path | str, tokens: int | None = None) -> Curve | None:
    """Return the validation curve of a run from its metrics.csv; None where there is none.

    Args:
        run: its folder.
        tokens: of a step; the curve is then over minutes, which follow from the tokens a second, else over steps.
    """
    path = Path(run, "logs", "version_0", "metrics.csv")
    if not path.is_file():
        return None
    minutes, last, of_step = 0.0, -1, 0.0
    x: list[float] = []
    y: list[float] = []
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            step = int(row["step"])
            if row.get("tokens/s") and tokens is not None:
                of_step = tokens / float(row["tokens/s"]) / 60
                minutes, last = minutes + (step - last) * of_step, step
            if row.get("valid_bits"):
                x.append(float(step + 1) if tokens is None else minutes + (step - last) * of_step)
                y.append(float(row["valid_bits"]))
    return (x, y) if x else None


def table_rows(table: Table, rows: Iterable[tuple[Row, Sequence[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Return the published rows without one of ours, then ours with the published figure beside them."""
    if table.sets:
        return _set_rows(table, rows)
    if table.steps:
        return [line for row, results in rows for line in _step_rows(table, row, results)]
    ours = [_row(table, row, results) for row, results in rows]
    beside = {row["published_as"] for row in ours}
    others = [
        {"model": name, "published": str(figure)} for name, figure in table.published.items() if name not in beside
    ]
    return others + [{name: value for name, value in row.items() if name != "published_as"} for row in ours]


def _set_rows(table: Table, rows: Iterable[tuple[Row, Sequence[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Return the published rows, then ours, with a column for each set."""
    found: list[dict[str, Any]] = [
        {"model": f"{name}, published"} | {name: str(figure) for name, figure in figures.items()}
        for name, figures in table.published_sets.items()
    ]
    for row, results in rows:
        each = {name: [result["sets"][name] for result in results if name in result["sets"]] for name in table.sets}
        columns = {name: mean_of(pairs) for name, pairs in each.items() if pairs}
        found.append({"model": row.title} | told(results) | columns)
    return found


def _step_rows(table: Table, row: Row, results: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a row for each number of steps of the bound."""
    for steps in results[0]["steps_of_bound"]:
        of_it = []
        for result in results:
            value, error = result["steps_of_bound"][steps]
            of_it.append(result | {"value": value, "error": error})
        published = table.published.get(steps)
        found = _row(table, row, of_it) | {"published": str(published) if published else None}
        yield {"model": row.title, "T": steps} | {name: found[name] for name in found if name != "published_as"}


def _row(table: Table, row: Row, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    figure = table.published.get(row.published or "")
    return {
        "model": row.title,
        "published_as": row.published if figure else None,
        "published": f"{figure}, {row.published}" if figure else None,
        **told(results),
        table.figure: mean_of([(result["value"], result["error"]) for result in results]),
        "test_error": _rms([result["error"] for result in results]),
    }


def told(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return how large the models of a row are, and how long they were trained."""
    steps = sorted({result["steps"] for result in results if result["steps"] is not None})
    seconds = [result["seconds"] for result in results if result["seconds"] is not None]
    return {
        "parameters": f"{results[0]['parameters']:,}",
        "steps": " to ".join(f"{one:,}" for one in (steps if len(steps) < 2 else (steps[0], steps[-1]))) or None,
        "minutes": f"{statistics.mean(seconds) / 60:.1f}" if seconds else None,
        "seeds": "given" if "given" in results[0] else len(results),
    }


def mean_of(pairs: Sequence[Sequence[Any]]) -> Figure:
    """Return the mean of values with their errors: with its own standard error or, of one value, the error it has."""
    values = [value for value, _ in pairs]
    return Figure(statistics.mean(values), spread(values) if len(values) > 1 else pairs[0][1])


def spread(values: Sequence[float]) -> float:
    """Return the standard error of the mean."""
    return statistics.stdev(values) / math.sqrt(len(values))


def _rms(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    return math.sqrt(statistics.mean(error**2 for error in known)) if known else None
