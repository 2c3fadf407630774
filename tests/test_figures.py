"""What figures say: which points are joined, what stands at ticks and curves; and that their style stays theirs."""

import importlib.util
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from unmask.display.figures import exponent_figure, schedule_figure, steps_figure
from unmask.display.measured import distance_figure, frontier_figure, learning_figure, study_figure
from unmask.display.style import name_curves


def texts_at(axis: matplotlib.axis.Axis) -> list[str]:
    return [tick.get_text() for tick in axis.get_ticklabels() if tick.get_text()]


def test_lines_join_what_differs_in_calls_alone() -> None:
    names = ["FirstHitting()", "FirstHitting(tokens_per_call=4)", "FirstHitting(top_p=0.9)", "Ancestral(steps=16)"]
    names += ["FirstHitting(temperature=0.8)", "Ancestral(steps=64)", "InOrder(order=(1, 0), tokens_per_call=2)"]
    rows = [{"sampler": name, "calls": 10.0 + i, "entropy": [2.0, 0.1]} for i, name in enumerate(names)]
    figure = study_figure(rows, {"entropy": [2.5, None]}, "character")
    (axes,) = figure.axes
    curves = {part.get_label(): part for part in axes.containers if isinstance(part, ErrorbarContainer)}
    many = {name: len(part.lines[0].get_xdata()) for name, part in curves.items()}
    assert many == {
        "FirstHitting": 2,
        "FirstHitting, top_p=0.9": 1,
        "FirstHitting, temperature=0.8": 1,
        "Ancestral": 2,
        "InOrder, order=(1, 0)": 1,
    }
    looks = [(part.lines[0].get_color(), part.lines[0].get_marker()) for part in curves.values()]
    assert len(set(looks)) == 5 and len({color for color, _ in looks}) == 3  # a colour is a class
    assert len({marker for _, marker in looks}) == 5  # and markers tell all apart in grey


def test_ticks_are_plain_numbers() -> None:
    rows = [{"line": "a", "calls": calls, "distance": [1 / calls, 0.001]} for calls in (4, 16, 64)]
    figure = distance_figure(rows)
    figure.draw_without_rendering()
    assert {"5", "10", "20", "50"} <= set(texts_at(figure.axes[0].xaxis))
    assert {"0.02", "0.05", "0.1", "0.2"} <= set(texts_at(figure.axes[0].yaxis))
    points = [{"temperature": t, "entropy": [t, 0.1], "perplexity_micro": [10.0 ** (5 * t), 1.0]} for t in (0.2, 1.0)]
    figure = frontier_figure(points, None, "runs/judge")
    figure.draw_without_rendering()
    assert {"10", "1,000", "100,000"} <= set(texts_at(figure.axes[0].yaxis))  # many powers: these alone


def test_few_curves_are_named_where_they_are() -> None:
    for axes in schedule_figure().axes:
        assert axes.get_legend() is None
        assert {text.get_text() for text in axes.texts} == {"linear", "polynomial, power 2", "geometric", "cosine"}
        places = np.array([text.get_position() for text in axes.texts])
        apart = abs(places[:, None] - places).max(-1)[~np.eye(4, dtype=bool)]
        assert apart.min() > 0.05 and ((places > -0.03) & (places < 1)).all()
    assert steps_figure(8, 64).axes[0].get_legend() is not None  # eight are too many
    axes = Figure().subplots()
    axes.plot([1, 2], [3, 4], label="training")
    axes.plot([], [], label="validation")  # as after a run without an evaluation
    name_curves(axes)
    assert axes.get_legend() is not None


def test_the_style_is_that_of_these_figures_alone() -> None:
    before = dict(matplotlib.rcParams)
    figure = schedule_figure()
    assert dict(matplotlib.rcParams) == before
    shown = {
        to_hex(line.get_color()) for figure in (figure, steps_figure(8, 64)) for line in figure.axes[0].get_lines()
    }
    assert shown == {"#0072b2", "#d55e00", "#009e73", "#cc79a7"}  # even where it is drawn with another style
    assert not figure.axes[0].spines.top.get_visible() and Figure().subplots().spines.top.get_visible()


def test_committed_figures_are_drawn_from_tables_of_the_pages() -> None:
    path = Path(__file__).parents[1] / "docs" / "figures.py"
    spec = importlib.util.spec_from_file_location("figures", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows, real = module.samplers()
    assert rows[3] == {
        "sampler": "FirstHitting(tokens_per_call=8, order=2)",
        "entropy": [2.761, 0.007],
        "judge": [2.779, 0.031],
        "calls": 16.0,
    }
    assert real["judge"] == [1.635, 0.005]
    assert [row["temperature"] for row in module.frontier()[0]] == [0.6, 0.8, 1.0, 1.2]
    judged = module.draws()
    assert [(row["line"], row["point"]) for row in judged[2:4]] == [
        ("masked, ancestral, exact", "T = 16"),
        ("masked, ancestral, exact", "T = 64"),
    ]
    assert len(judged) == 8 and judged[-1]["line"] == "masked, ancestral, float32"
    schedule, names = module.exponents("exponents")
    assert len(names) == 27 and (names[0], names[-1]) == ("␣", "x")
    assert schedule.powers[[0, -1]].tolist() == pytest.approx([1.335, 0.618], abs=1e-6)
    left, _ = exponent_figure(module.exponents("levels")[0]).axes
    (points,) = left.get_lines()
    assert points.get_linestyle() == "None" and np.size(points.get_xdata()) == 17  # levels are not joined
    curves = module.learning()
    assert len(curves["shipped"][0]) == len(curves["plain"][0]) == 6
    said = (path.parent / "text.md").read_text(encoding="utf-8")
    assert all(f"{run[-1][2]:.3f} ± " in said for (run,) in curves.values())
    figure = learning_figure(curves)
    assert all({"shipped", "plain"} == {text.get_text() for text in axes.texts} for axes in figure.axes)
    figure.draw_without_rendering()
    assert not figure.axes[1].xaxis.get_offset_text().get_text()  # no 1e6
