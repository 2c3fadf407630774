"""unmask plot: figures."""

from pathlib import Path

from unmask.cli.common import new_parser, parse
from unmask.pictures import loss_curve, schedule_figure


def run(arguments: list[str]) -> None:
    """Run `unmask plot`."""
    parser = new_parser("plot", description="Draw a figure: the masking schedules, or the loss curve of a run.")
    parser.add_argument("what", metavar="schedules|RUN", help="`schedules`, or the folder of a run")
    parser.add_argument("--out", type=str, help="the file to write; its ending chooses the format (.png, .pdf, .svg)")
    settings = parse(parser, arguments)
    if settings.what == "schedules":
        figure, out = schedule_figure(), settings.out or "schedules.png"
    else:
        figure, out = loss_curve(settings.what), settings.out or str(Path(settings.what, "loss.png"))
    figure.savefig(out, dpi=150)
    print(out)
