"""unmask plot: figures."""

from pathlib import Path

from jsonargparse import Namespace
from matplotlib.figure import Figure

from unmask.cli.common import instantiate, load_model, new_parser, parse
from unmask.cli.sample import add_sampler, make_labels, make_sampler
from unmask.display.figures import (
    exponent_figure,
    loss_curve,
    schedule_figure,
    steps_figure,
    symbols,
    trajectory_figure,
)
from unmask.forward import all_masked
from unmask.randomness import generators
from unmask.samplers.base import Sampler
from unmask.schedules import TokenPolynomial
from unmask.storage.files import check_writable

WITH_MODEL = ("schedules", "trajectory")


def run(arguments: list[str]) -> None:
    """Run `unmask plot`."""
    parser = new_parser(
        "plot",
        description="Draw a figure. `schedules`: the masking schedules, or after it a MODEL, for its own, with what it "
        "learned. `steps`: how many tokens ancestral sampling reveals in each step. `trajectory` MODEL: the same of "
        "samples drawn now, and how early each token value appears. RUN, the folder of a run: its loss curve.",
    )
    parser.add_argument("what", metavar="schedules|steps|trajectory|RUN", help="what to draw, see above")
    parser.add_argument("model", metavar="MODEL", nargs="?", help="after `schedules` or `trajectory`")
    parser.add_argument("--out", type=str, help="the file to write; its ending chooses the format (.png, .pdf, .svg)")
    parser.add_argument("--steps", type=int, default=256, help="for `steps`: number of steps")
    parser.add_argument("--length", type=int, default=1024, help="for `steps`: number of tokens")
    parser.add_argument("--n", type=int, default=16, help="for `trajectory`: number of examples")
    parser.add_argument("--seed", type=int, default=0, help="for `trajectory`: seed of the examples")
    add_sampler(parser)
    parser.add_argument("--label", type=str, help="for `trajectory`: class of all examples")
    parser.add_argument("--device", type=str, help="for `trajectory`: cpu, cuda, cuda:1, ...")
    settings = parse(parser, arguments)
    if settings.out:
        check_writable(Path(settings.out), "--out")
    if settings.model and settings.what not in WITH_MODEL:
        raise ValueError(f"plot {settings.what} {settings.model}: only {' and '.join(WITH_MODEL)} take a model")
    for name in ("steps", "length", "n"):
        if settings[name] < 1:
            raise ValueError(f"--{name} must be at least 1, got {settings[name]}")
    if settings.what == "schedules":
        figure = _schedules(settings.model)
    elif settings.what == "steps":
        figure = steps_figure(settings.steps, settings.length)
    elif settings.what == "trajectory":
        figure = _trajectory(settings, instantiate(parser, settings).sampler)
    else:
        figure = loss_curve(settings.what)
    known = settings.what in (*WITH_MODEL, "steps")
    out = settings.out or (f"{settings.what}.png" if known else str(Path(settings.what, "loss.png")))
    figure.savefig(out, dpi=150)
    print(out)


def _schedules(path: str | None) -> Figure:
    """Draw the schedules of the papers, or that of a model."""
    if path is None:
        return schedule_figure()
    model = load_model(path, "cpu")
    if not isinstance(model.schedule, TokenPolynomial):
        return schedule_figure([model.schedule])
    return exponent_figure(model.schedule, symbols(model.codec))


def _trajectory(settings: Namespace, sampler: Sampler | None) -> Figure:
    """Draw how samples come about."""
    if settings.model is None:
        raise ValueError("plot trajectory needs a model, as in: unmask plot trajectory runs/digits")
    model = load_model(settings.model, settings.device)
    label = make_labels(settings.label, settings.n, model)
    label = None if label is None else label.to(model.device)
    canvas = all_masked(settings.n, model.shape, model.network.mask_id, device=model.device)
    sampler = make_sampler(model, sampler, settings)
    states = sampler.trajectory(model.network, canvas, label, generator=generators(settings.seed, settings.n))
    return trajectory_figure([state.x for state in states], model.network.vocab_size, symbols(model.codec))
