"""unmask study samplers|precision MODEL: what samplers do to the samples of a model, in one table and one figure."""

from pathlib import Path

from jsonargparse import Namespace

from unmask.cli.common import (
    DEVICE,
    MODEL,
    SPEED,
    Option,
    Parser,
    at_least,
    first,
    instantiate,
    load_model,
    parse,
)
from unmask.cli.evaluate import named_data, numbers, write
from unmask.storage.files import check_writable
from unmask.storage.hub import check_model
from unmask.storage.settings import trained_with

STUDIES = {
    "samplers": "Calls, time and quality of every kind of sampler that fits a model.",
    "precision": "What Gumbel-max draws in float32, as public code makes them, do to ancestral sampling.",
}
OPTIONS: tuple[Option, ...] = (
    ("samples", int, 16, "number of examples from each sampler"),
    ("ngram", int, None, "order of the n-gram model that judges, 0 for none; a fitting one if not given"),
    ("seed", int, 0, "of the examples"),
    ("label", str, None, "class of all examples, or `all`: samples / classes of each"),
    ("guidance", float, 1.0, "scale of classifier-free guidance for a --label"),
    DEVICE,
    *SPEED,
    ("json", str, None, "file for the report"),
)


def run(arguments: list[str]) -> None:
    """Run `unmask study`."""
    what = first(arguments, "samplers or precision") or "samplers"
    if what not in STUDIES:
        raise ValueError(f"study {what}: there are samplers and precision")
    rest = arguments[1:] if arguments[0] == what else arguments
    path = first(rest, "after that the MODEL")
    parser = Parser(f"study {what}", description=f"{STUDIES[what]} There are: {', '.join(STUDIES)}.")
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    steps, length = ("steps", str, "64,256,1024", "numbers of steps"), ("length", int, None, "tokens of each text")
    out: Option = ("out", str, f"{what}.png", "file for the figure; its ending chooses the format")
    parser.add_options(*OPTIONS, steps if what == "precision" else length, out)
    parser.choose("data", "what trains the judge; by default the model's own", default=trained_with(path))
    settings = parse(parser, rest, check=check)
    model = load_model(settings.model, settings.device, settings)
    data = named_data(model, instantiate(parser, settings).data)
    names = ("samples", "guidance", "ngram", "seed", "length")
    chosen = {name: settings[name] for name in names if name in settings}
    chosen |= {"label": model.labels(settings.label, settings.samples), **numbers(settings, what)}
    from unmask import evaluation

    report = getattr(evaluation, f"study_{what}")(model, data, **chosen)
    print(report)
    write(report, settings, "out")


def check(settings: Namespace) -> None:
    """Raise an error for a value out of range or a file that cannot be written, before anything is loaded."""
    check_model(settings.model)
    at_least(settings, samples=2, seed=0, ngram=0)
    numbers(settings, "study")
    for option in ("out", "json"):
        if settings[option]:
            check_writable(Path(settings[option]), f"--{option}")
