"""unmask train CONFIG: train a model, or go on with a run that was cut off."""

import glob
import inspect
from argparse import SUPPRESS, ArgumentError
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

from unmask.cli.common import first, instantiate, nearest, new_parser, parse
from unmask.data.arrays import Arrays  # noqa: F401
from unmask.data.base import DataSet
from unmask.networks.base import Network
from unmask.objectives.base import Objective
from unmask.storage.description import subclasses
from unmask.training.settings import Optimizer, Run, TrainerSettings

CHOSEN = {"data": DataSet, "network": Network, "objective": Objective}
LINKED = ("network.vocab_size", "network.shape", "network.classes", "objective.schedule.vocab_size")
RECORD = "run.json"


def shipped() -> dict[str, Path]:
    """Return the configurations that come with the package, by name."""
    folder = files("unmask") / "configs"
    return {Path(str(entry)).stem: Path(str(entry)) for entry in sorted(folder.iterdir(), key=str)}


def find_config(name: str) -> Path:
    """Return the file of a shipped configuration or a path to one's own, or the folder of a run.

    Raises:
        ArgumentError: none of these; suggests the nearest shipped name.
    """
    if name in shipped():
        return shipped()[name]
    if Path(name).is_file() or Path(name, RECORD).is_file():
        return Path(name)
    known = ", ".join(shipped())
    raise ArgumentError(
        None, f"no configuration {name!r}{nearest(name, shipped())}; shipped are {known}; or give a file"
    )


def train_parser(config: Path | None, resumed: Path | None = None) -> ArgumentParser:
    """Return the parser of all fields of an experiment.

    Args:
        config: that the defaults are read from.
        resumed: folder of a run, whose settings are the defaults instead.
    """
    parser = new_parser(
        "train",
        description="Train a model. CONFIG is a shipped name or a YAML file, or with --resume the folder of a run; "
        "every field of it can be overridden. --help-all lists them all, --network.help UNet those of a class.",
        epilog="Example: unmask train digits --objective ContinuousELBO --objective.schedule Cosine "
        "--network.width 192 --trainer.max_steps 2000 --out runs/cosine",
        default_config_files=[glob.escape(str(config))] if config and not resumed else [],
    )
    parser.add_argument("config", metavar="CONFIG", help=f"one of {', '.join(shipped())}; or a YAML file")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of this run, exactly")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that is in the way")
    parser.add_argument("--dry-run", action="store_true", help="say what it would take, and write nothing")
    parser.add_argument("--help-all", action="help", help="list the options of the classes, optimizer and trainer too")
    parser.add_class_arguments(Run, default={"out": f"runs/{config.stem}"} if config else None)
    parser.add_subclass_arguments(DataSet, "data", required=True, help="what is learned: class and settings")
    parser.add_subclass_arguments(Network, "network", required=True, help="what learns it: class and settings")
    parser.add_subclass_arguments(
        Objective, "objective", default={"class_path": "TimeFreeELBO"}, help="what is minimised"
    )
    parser.add_class_arguments(Optimizer, "optimizer")
    parser.add_class_arguments(TrainerSettings, "trainer")
    for field, find in {"vocab_size": lambda d: d.codec.vocab_size, "shape": lambda d: d.shape}.items():
        parser.link_arguments("data", f"network.init_args.{field}", compute_fn=find, apply_on="instantiate")
    target = "objective.init_args.schedule.init_args.vocab_size"
    parser.link_arguments("data", target, compute_fn=lambda d: d.codec.vocab_size, apply_on="instantiate")
    parser.link_arguments("data", "network.init_args.classes", compute_fn=lambda d: d.classes, apply_on="instantiate")
    if resumed:
        parser.set_defaults(settings_of(resumed))
    return parser


def run(arguments: list[str]) -> None:
    """Run `unmask train`."""
    if _explained_a_class(arguments):
        return
    name = first(arguments, "CONFIG") if "--help-all" not in arguments[:1] else None
    config = find_config(name) if name else None
    resumed = _resumed(arguments, config)
    for field in LINKED:
        if any(argument.partition("=")[0] == f"--{field}" for argument in arguments):
            raise ArgumentError(None, f"--{field} cannot be chosen: the data decide it")
    parser = train_parser(config, resumed)
    if "--help-all" not in arguments:
        _shorten(parser)
    settings = parse(parser, arguments, config)
    from unmask.training import dry_run, train

    torch.manual_seed(settings.seed)
    try:
        made = instantiate(parser, settings)
    except ValueError as error:
        if resumed is None:
            raise
        raise ValueError(f"cannot resume on other data or settings than {resumed / RECORD} names: {error}") from None
    chosen: dict[str, Any] = {name: made[name] for name in ("objective", "optimizer", "trainer")}
    chosen["run"] = Run(**{field.name: settings[field.name] for field in fields(Run)})
    if settings.dry_run:
        print(dry_run(made.network, made.data, **chosen))
        return
    train(made.network, made.data, **chosen, resume=settings.resume, overwrite=settings.overwrite)


def _explained_a_class(arguments: list[str]) -> bool:
    """Print the signature and the docstring of the class that `--data.help Arrays` and the like name, if one does."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, equals, value = argument.partition("=")
        base = CHOSEN.get(option.removeprefix("--").removesuffix(".help"))
        if base is None or not option.endswith(".help"):
            continue
        known, name = subclasses(base), value if equals else following
        if name not in known:
            raise ArgumentError(
                None, f"{option}: unknown class {name!r}{nearest(name, known)}; known: {', '.join(known)}"
            )
        print(f"{name}{inspect.signature(known[name])}\n\n{inspect.getdoc(known[name])}")
        return True
    return False


def _shorten(parser: ArgumentParser) -> None:
    """Leave the options of the classes, the optimizer and the trainer out of the help."""
    for action in parser._actions:
        if "." in action.dest and not action.dest.endswith(".help"):
            action.help = SUPPRESS


def _resumed(arguments: list[str], config: Path | None) -> Path | None:
    """Return the folder of the run that --resume is to go on with: its settings are the defaults then."""
    if config is not None and config.is_dir() and "--resume" not in arguments:
        raise ArgumentError(None, f"{config} is the folder of a run: give --resume to go on with it")
    if config is None or "--resume" not in arguments:
        return None
    out = str(config) if config.is_dir() else f"runs/{config.stem}"
    for option, value in zip(arguments, [*arguments[1:], ""], strict=True):
        out = value if option == "--out" else option.removeprefix("--out=") if option.startswith("--out=") else out
    return Path(out) if Path(out, RECORD).is_file() else None


def settings_of(folder: Path) -> dict[str, Any]:
    """Return the settings that a run was started with, as they would stand in a configuration."""
    from unmask.training.run import read_record

    record = read_record(folder)
    settings: dict[str, Any] = {**record["run"], "out": str(folder)}
    for group in ("optimizer", "trainer"):
        settings |= {f"{group}.{name}": value for name, value in record[group].items() if name != "class"}
    for name in CHOSEN:
        settings[name] = _as_setting(record[name], f"{name}.")
    return settings


def _as_setting(described: Any, prefix: str) -> Any:
    """Turn {"class": name, ...} into what a configuration has, without what the data decide."""
    if not isinstance(described, dict) or "class" not in described:
        return described
    arguments = {
        name: _as_setting(value, f"{prefix}{name}.")
        for name, value in described.items()
        if name != "class" and f"{prefix}{name}" not in LINKED
    }
    return {"class_path": described["class"], "init_args": arguments}
