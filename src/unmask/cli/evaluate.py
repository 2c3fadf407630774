"""unmask evaluate MODEL: how good a model is, by one of several measures, each with its error and its protocol."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from jsonargparse import Namespace

from unmask.checkpoints.ddit import is_public
from unmask.cli import fid, generate, likelihood, zeroshot
from unmask.cli.common import (
    at_least,
    check_fits,
    find_device,
    find_model,
    first,
    instantiate,
    load_model,
    new_parser,
    own_data,
    parse,
)
from unmask.data.base import DataSet
from unmask.data.images import ImageSet
from unmask.model import CONFIG, MaskedDiffusion
from unmask.storage.description import describe
from unmask.storage.files import check_writable

MEASURES = {"likelihood": likelihood, "suite": zeroshot, "generate": generate, "fid": fid}
"""Each adds its options, says in OPTIONS which they are, checks them, and measures."""


def run(arguments: list[str]) -> None:
    """Run `unmask evaluate`."""
    path = first(arguments, "MODEL")
    model = load_model(path, None) if path else None
    parser = new_parser("evaluate", description="Measure a model: the likelihood of data under it, unless told else.")
    parser.add_argument("model", metavar="MODEL", help="folder of a model or a run, or a name on the Hub")
    parser.add_argument("--batch_size", type=int, default=16, help="examples at a time")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--device", type=str, help="cpu, cuda, cuda:1, ...; a GPU where there is one if not given")
    parser.add_argument("--json", type=str, help="file to write the result and its protocol to")
    parser.add_argument(
        "--record", action="store_true", help="write the result into the model's own folder, for its card"
    )
    parser.add_subclass_arguments(
        DataSet,
        "data",
        required=False,
        default=own_data(model),
        help="what to measure; by default what was trained on",
    )
    parser.add_argument(
        "--steps",
        type=str,
        help="of likelihoods: numbers T of steps with commas between, as in 100,1000,inf: the bound of each; inf, the "
        f"limit, is measured if not given. Of --fid: numbers of ancestral steps, {fid.STEPS} if not given",
    )
    parser.add_argument(
        "--n", type=int, default=1000, help="for --generate and --fid: samples, from each sampler; figures depend on it"
    )
    parser.add_argument("--figure", type=str, help="for --generate and --fid: file for the curves")
    for measure in MEASURES.values():
        measure.add_arguments(parser)
    settings = parse(parser, arguments)
    measure = check(arguments, settings)
    model = load_model(settings.model, settings.device) if model is None else model.to(find_device(settings.device))
    made = instantiate(parser, settings)
    if not measure.NEEDS_DATA:
        measure.measure(model, made, settings)
        return
    if made.data is None:
        raise ValueError(f"{settings.model} does not say what it was trained with: name the data, as in --data Digits")
    check_fits(model, made.data)
    warn_if_changed(model, made.data)
    if isinstance(made.data, ImageSet) and made.data.flip:  # mirrored images are for training alone
        made.data = replace(made.data, flip=False)
    measure.measure(model, made, settings)


def check(arguments: list[str], settings: Namespace) -> ModuleType:
    """Return the measure that is asked for.

    Raises:
        ValueError: a value out of range, an option of another measure, or a file that cannot be written.
    """
    chosen = next((name for name in MEASURES if settings.get(name)), "likelihood")
    given = [argument[2:].partition("=")[0].partition(".")[0] for argument in arguments if argument.startswith("--")]
    for option in given:
        owners = [name for name, measure in MEASURES.items() if option in measure.OPTIONS]
        if owners and chosen not in owners:
            others = " or ".join(f"--{name}" for name in owners if name != "likelihood")
            how = f"goes with {others} alone" if chosen == "likelihood" else f"does not go with --{chosen}"
            raise ValueError(f"--{option} {how}")
    at_least(settings, batch_size=1, seed=0)
    MEASURES[chosen].check(settings)
    config = Path(find_model(settings.model), CONFIG)
    if settings.record and not config.is_file():
        raise ValueError(f"--record: {settings.model} is not a folder on this machine")
    if settings.record and is_public(json.loads(config.read_text(encoding="utf-8"))):
        raise ValueError(f"--record: {settings.model} is as it was published; unmask import makes a model of your own")
    if settings.json:
        check_writable(Path(settings.json), "--json")
    return MEASURES[chosen]


def warn_if_changed(model: MaskedDiffusion, data: DataSet) -> None:
    """Say so where the data are described as those that the model was trained on, but hold something else."""
    known = model.about.get("train_sha256")
    if known and describe(data.resolved()) == model.about.get("data") and data.split("train").checksum != known:
        print(
            f"unmask: warning: {data.name} is not what the model was trained on: its content changed", file=sys.stderr
        )
