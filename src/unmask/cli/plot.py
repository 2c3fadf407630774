"""unmask plot: figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from unmask.cli.common import Parser, at_least, instantiate, load_model, parse
from unmask.cli.sample import add_sampler, make_sampler
from unmask.storage.files import check_writable
from unmask.storage.folders import find_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from unmask.samplers.base import Sampler

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
    parser.add_argument("--out", type=str, help="the file to write; its ending chooses the format (.png, .pdf, .svg)")
    parser.add_argument("--steps", type=int, default=256, help="for `steps`: number of steps")
    parser.add_argument("--length", type=int, default=1024, help="for `steps`: number of tokens")
    parser.add_argument("-n", "--samples", type=int, default=16, help="for `trajectory`: number of examples")
    parser.add_argument("--seed", type=int, default=0, help="for `trajectory`: seed of the examples")
    add_sampler(parser)
    parser.add_argument("--label", type=str, help="for `trajectory`: class of all examples")
    parser.add_argument("--device", type=str, help="for `trajectory`: cpu, cuda, cuda:1, ...")
    settings = parse(parser, arguments, check=check)
    if settings.what == "schedules":
        figure = _schedules(settings.model)
    elif settings.what == "steps":
        from unmask.display.figures import steps_figure

        figure = steps_figure(settings.steps, settings.length)
    elif settings.what == "trajectory":
        figure = _trajectory(settings, instantiate(parser, settings).sampler)
    else:
        from unmask.display.figures import loss_curve

        figure = loss_curve(settings.what)
    known = settings.what in (*WITH_MODEL, "steps")
    out = settings.out or (f"{settings.what}.png" if known else str(Path(settings.what, "loss.png")))
    figure.savefig(out, dpi=150)
    print(out)


def check(settings: Namespace) -> None:
    """Raise an error for what is known to be wrong before anything is drawn."""
    if settings.out:
        check_writable(Path(settings.out), "--out")
    if settings.model and settings.what not in WITH_MODEL:
        raise ValueError(f"plot {settings.what} {settings.model}: only {' and '.join(WITH_MODEL)} take a model")
    if settings.what == "trajectory" and not settings.model:
        raise ValueError("plot trajectory needs a model, as in: unmask plot trajectory runs/digits")
    at_least(settings, steps=1, length=1, samples=1, seed=0)
    if settings.model:
        find_folder(settings.model)


def _schedules(path: str | None) -> Figure:
    """Draw the schedules of the papers, or that of a model."""
    from unmask.display.figures import exponent_figure, schedule_figure, symbols
    from unmask.schedules import TokenPolynomial

    if path is None:
        return schedule_figure()
    model = load_model(path, "cpu")
    if not isinstance(model.schedule, TokenPolynomial):
        return schedule_figure([model.schedule])
    return exponent_figure(model.schedule, symbols(model.codec))


def _trajectory(settings: Namespace, sampler: Sampler | None) -> Figure:
    """Draw how samples come about."""
    from unmask.display.figures import symbols, trajectory_figure
    from unmask.display.output import Film
    from unmask.samplers.draw import draw

    model = load_model(settings.model, settings.device)
    film, count = Film(), settings.samples
    draw(
        model.network,
        model.empty_canvas(count),
        model.labels(settings.label, count),
        sampler=make_sampler(model, sampler, settings),
        seed=settings.seed,
        batch_size=count,
        watch=film,
    )
    return trajectory_figure(film.states, model.network.vocab_size, symbols(model.codec))
