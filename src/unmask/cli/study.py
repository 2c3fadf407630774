"""unmask study samplers|precision MODEL: what samplers do to the samples of a model, in one table and one figure."""

from pathlib import Path

from jsonargparse import Namespace

from unmask.cli.common import Parser, at_least, first, instantiate, load_model, parse, trained_with
from unmask.cli.evaluate import named_data, whole_numbers, write
from unmask.storage.files import check_writable
from unmask.storage.folders import find_folder

STUDIES = {
    "samplers": "Calls, time and quality of every kind of sampler that fits a model.",
    "precision": "What Gumbel-max draws in float32, as public code makes them, do to ancestral sampling.",
}


def run(arguments: list[str]) -> None:
    """Run `unmask study`."""
    what = first(arguments, "samplers or precision") or "samplers"
    if what not in STUDIES:
        raise ValueError(f"study {what}: there are {' and '.join(STUDIES)}")
    rest = arguments[1:] if arguments[0] == what else arguments
    path = first(rest, "after that the MODEL")
    parser = Parser(f"study {what}", description=f"{STUDIES[what]} There are: {', '.join(STUDIES)}.")
    parser.add_argument("model", metavar="MODEL", help="folder of a model or a run, or a name on the Hub")
    parser.add_argument("-n", "--samples", type=int, default=16, help="examples from each sampler")
    if what == "precision":
        parser.add_argument("--steps", type=str, default="64,256,1024", help="numbers of steps")
    parser.add_argument("--ngram", type=int, help="order of the n-gram model that judges, 0 for none; a fitting one")
    parser.add_argument("--seed", type=int, default=0, help="of the examples")
    parser.add_argument("--label", type=str, help="class of all examples, or `all`: samples / classes of each")
    parser.add_argument("--guidance", type=float, default=1.0, help="scale of classifier-free guidance for a --label")
    parser.add_argument("--device", type=str, help="cpu, cuda, cuda:1, ...; a GPU where there is one if not given")
    parser.add_argument("--out", type=str, default=f"{what}.png", help="file for the figure; its ending is its format")
    parser.add_argument("--json", type=str, help="file for the report")
    parser.choose("data", "what trains the judge; by default the model's own", default=trained_with(path))
    settings = parse(parser, rest, check=check)
    model = load_model(settings.model, settings.device)
    data = named_data(model, instantiate(parser, settings).data)
    chosen = {name: settings[name] for name in ("samples", "guidance", "ngram", "seed")}
    chosen["label"] = model.labels(settings.label, settings.samples)
    from unmask.evaluation import study_precision, study_samplers

    if what == "samplers":
        report = study_samplers(model, data, **chosen)
    else:
        report = study_precision(model, data, steps=whole_numbers(settings.steps) or (), **chosen)
    print(report)
    write(report, settings, "out")


def check(settings: Namespace) -> None:
    """Raise an error for a value out of range or a file that cannot be written, before anything is loaded."""
    find_folder(settings.model)
    at_least(settings, samples=2, seed=0, ngram=0)
    whole_numbers(settings.get("steps"))
    for option in ("out", "json"):
        if settings[option]:
            check_writable(Path(settings[option]), f"--{option}")
