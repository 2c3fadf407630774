"""unmask plot: figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from unmask.cli.common import DEVICE, Parser, at_least, instantiate, load_model, parse
from unmask.cli.sample import add_sampler, make_sampler
from unmask.storage.files import check_writable
from unmask.storage.hub import check_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".png", ".pdf", ".svg")
WITH_MODEL = ("schedules", "trajectory")


def run(arguments: list[str]) -> None:
    """Run `unmask plot`."""
    parser = Parser(
        "plot",
        description="Draw a figure. `schedules`: the masking schedules or, followed by a MODEL, its own, with what it "
        "learned. `steps`: how many tokens ancestral sampling reveals in each step. `trajectory` MODEL: the same of "
        "samples drawn now, and how early each token value appears. RUN, the folder of a run: its loss curve.",
    )
    parser.add_argument("what", metavar="schedules|steps|trajectory|RUN", help="what to draw, see above")
    parser.add_argument("model", metavar="MODEL", nargs="?", help="after `schedules` or `trajectory`")
    parser.add_options(
        ("out", str, None, "the file to write; its ending chooses the format (.png, .pdf, .svg)"),
        ("steps", int, 256, "for `steps`: number of steps"),
        ("length", int, 1024, "for `steps`: number of tokens"),
        ("samples", int, 16, "for `trajectory`: number of examples"),
        ("seed", int, 0, "for `trajectory`: seed of the examples"),
        ("label", str, None, "for `trajectory`: class of all examples"),
        DEVICE,
    )
    add_sampler(parser)
    settings = parse(parser, arguments, check=check)
    figure = draw(settings, parser)
    known = settings.what in (*WITH_MODEL, "steps")
    out = settings.out or (f"{settings.what}.png" if known else str(Path(settings.what, "loss.png")))
    figure.savefig(out, dpi=150)
    print(out)


def check(settings: Namespace) -> None:
    """Raise an error for what is known to be wrong before anything is drawn."""
    if settings.out:
        check_writable(Path(settings.out), "--out", PICTURES)
    if settings.model and settings.what not in WITH_MODEL:
        raise ValueError(f"plot {settings.what} {settings.model}: only {' and '.join(WITH_MODEL)} take a model")
    if settings.what == "trajectory" and not settings.model:
        raise ValueError("plot trajectory needs a model, as in: unmask plot trajectory runs/digits")
    at_least(settings, steps=1, length=1, samples=1, seed=0)
    if settings.model:
        check_model(settings.model)


def draw(settings: Namespace, parser: Parser) -> Figure:
    """Draw what is asked for."""
    from unmask.display.figures import loss_curve, steps_figure
    from unmask.inspection.plots import plot_schedules, plot_trajectory

    if settings.what == "schedules":
        return plot_schedules(load_model(settings.model, "cpu") if settings.model else None)
    if settings.what == "steps":
        return steps_figure(settings.steps, settings.length)
    if settings.what != "trajectory":
        return loss_curve(settings.what)
    model = load_model(settings.model, settings.device)
    sampler = make_sampler(model, instantiate(parser, settings).sampler, settings)
    chosen = {name: settings[name] for name in ("samples", "label", "seed")}
    return plot_trajectory(model, sampler=sampler, **chosen)
