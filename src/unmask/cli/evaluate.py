"""unmask evaluate MODEL: how good a model is, by one of several measures, each with its error and its protocol."""

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from jsonargparse import ArgumentParser, Namespace

from unmask.cli import fid, likelihood
from unmask.cli.common import first, instantiate, load_model, new_parser, own_data, parse
from unmask.data.base import DataSet
from unmask.data.images import ImageSet
from unmask.description import describe
from unmask.files import check_writable
from unmask.model import MaskedDiffusion

MEASURES = {"likelihood": likelihood, "fid": fid}
"""Each says in OPTIONS which options are its own, adds them, and measures."""
LEAST = {"draws": 1, "batch_size": 1, "limit": 1, "n": 2, "seed": 0}
PICTURES = ("breakdown", "figure")


def run(arguments: list[str]) -> None:
    """Run `unmask evaluate`."""
    path = first(arguments, "MODEL")
    model = load_model(path, None) if path else None
    parser = new_parser("evaluate", description="Measure a model: the likelihood of data under it, unless told else.")
    parser.add_argument("model", metavar="MODEL", help="folder of a model or a run, or a name on the Hub")
    parser.add_argument("--batch_size", type=int, default=16, help="examples at a time, each as often as --draws says")
    parser.add_argument("--seed", type=int, default=0, help="of the masks")
    parser.add_argument("--device", type=str, help="cpu, cuda, cuda:1, ...; a GPU where there is one if not given")
    parser.add_argument("--json", type=str, help="file to write the result and its protocol to")
    parser.add_subclass_arguments(
        DataSet,
        "data",
        required=False,
        default=own_data(model),
        help="what to measure; by default what was trained on",
    )
    for measure in MEASURES.values():
        measure.add_arguments(parser)
    settings = parse(parser, arguments)
    measure = check(parser, settings)
    if model is None or settings.device:
        model = load_model(settings.model, settings.device)
    made = instantiate(parser, settings)
    if made.data is None:
        raise ValueError(f"{settings.model} does not say what it was trained with: name the data, as in --data Digits")
    check_fits(model, made.data)
    warn_if_changed(model, made.data)
    if isinstance(made.data, ImageSet):  # mirrored images are for training alone
        made.data = replace(made.data, flip=False)
    measure.measure(model, made, settings)


def check(parser: ArgumentParser, settings: Namespace) -> ModuleType:
    """Return the measure that is asked for.

    Raises:
        ValueError: a value out of range, an option of another measure, or a file that cannot be written.
    """
    for name, least in LEAST.items():
        if settings[name] is not None and settings[name] < least:
            raise ValueError(f"--{name} must be at least {least}, got {settings[name]}")
    chosen = "fid" if settings.fid else "likelihood"
    for name, measure in MEASURES.items():
        for option in measure.OPTIONS:
            if option not in MEASURES[chosen].OPTIONS and settings[option] != parser.get_default(option):
                how = f"does not go without --{name}" if chosen == "likelihood" else f"does not go with --{chosen}"
                raise ValueError(f"--{option} {how}")
    for option in ("json", *PICTURES):
        if settings[option]:
            if option in PICTURES and Path(settings[option]).suffix not in (".png", ".pdf", ".svg"):
                raise ValueError(f"--{option} {settings[option]}: the file must end in .png, .pdf or .svg")
            check_writable(Path(settings[option]), f"--{option}")
    return MEASURES[chosen]


def check_fits(model: MaskedDiffusion, data: DataSet) -> None:
    """Raise a ValueError unless the model's codec made the tokens of the data, in examples of the model's shape."""
    if data.codec != model.codec:
        raise ValueError(f"{data.name} has the tokens {data.codec}, but the model was trained on {model.codec}")
    if data.shape != model.shape and (len(data.shape) > 1 or len(model.shape) > 1):
        raise ValueError(f"{data.name} has examples of shape {data.shape}, the model of shape {model.shape}")


def warn_if_changed(model: MaskedDiffusion, data: DataSet) -> None:
    """Say so where the data are described as those that the model was trained on, but hold something else."""
    known = model.about.get("train_sha256")
    if known and describe(data.settled()) == model.about.get("data") and data.split("train").checksum != known:
        print(
            f"unmask: warning: {data.name} is not what the model was trained on: its content changed", file=sys.stderr
        )
