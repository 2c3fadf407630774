"""unmask plot: figures."""

from pathlib import Path

from matplotlib.figure import Figure

from unmask.cli.common import load_model, new_parser, parse
from unmask.codecs import Characters
from unmask.pictures import exponent_figure, loss_curve, schedule_figure
from unmask.schedules import TokenPolynomial


def run(arguments: list[str]) -> None:
    """Run `unmask plot`."""
    parser = new_parser(
        "plot", description="Draw a figure: the masking schedules, what a model learned of its own, or a loss curve."
    )
    parser.add_argument("what", metavar="schedules|RUN", help="`schedules`, or the folder of a run for its loss curve")
    parser.add_argument("model", metavar="MODEL", nargs="?", help="after `schedules`: a model, for its own schedule")
    parser.add_argument("--out", type=str, help="the file to write; its ending chooses the format (.png, .pdf, .svg)")
    settings = parse(parser, arguments)
    if settings.what != "schedules":
        if settings.model:
            raise ValueError(f"plot {settings.what} {settings.model}: only `schedules` takes a model after it")
        figure, out = loss_curve(settings.what), settings.out or str(Path(settings.what, "loss.png"))
    else:
        figure = _schedules(settings.model)
        out = settings.out or "schedules.png"
    figure.savefig(out, dpi=150)
    print(out)


def _schedules(path: str | None) -> Figure:
    """Draw the schedules of the papers, or that of a model."""
    if path is None:
        return schedule_figure()
    model = load_model(path, "cpu")
    if not isinstance(model.schedule, TokenPolynomial):
        return schedule_figure([model.schedule])
    symbols = [c if c.strip() else "␣" for c in model.codec.alphabet] if isinstance(model.codec, Characters) else None
    return exponent_figure(model.schedule, symbols)
