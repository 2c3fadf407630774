"""unmask train CONFIG: train a model, or go on with a run that was cut off."""

from __future__ import annotations

import os
from argparse import ArgumentError
from collections.abc import Callable
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from unmask.cli.common import Parser, as_setting, first, instantiate, parse
from unmask.cli.names import given_options
from unmask.storage.folders import RUN
from unmask.storage.signatures import nearest
from unmask.training.settings import Optimizer, Run, TrainerSettings

LINKED = ("network.vocab_size", "network.shape", "network.classes", "objective.schedule.vocab_size")
COMMAND_LINE = ("config", "resume", "overwrite", "dry-run", "dry_run", "import")
"""What a file cannot ask for."""
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
"""What tells a process of several that it is not the first."""
MOST_BYTES, MOST_VALUES = 1 << 20, 10_000
"""Limits of a file of settings."""


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
    if Path(name).is_file() or Path(name, RUN).is_file():
        return Path(name)
    known = ", ".join(shipped())
    raise ArgumentError(
        None, f"no configuration {name!r}{nearest(name, shipped())}; shipped are {known}; or give a file"
    )


GROUPS = {"optimizer": Optimizer, "trainer": TrainerSettings}
LINKS: dict[str, Callable[[Any], Any]] = {
    "network.init_args.vocab_size": lambda data: data.codec.vocab_size,
    "objective.init_args.schedule.init_args.vocab_size": lambda data: data.codec.vocab_size,
    "network.init_args.shape": lambda data: data.shape,
    "network.init_args.classes": lambda data: data.classes,
}
"""What the data decide, and how."""


def run(arguments: list[str]) -> None:
    """Run `unmask train`."""
    name = first(arguments, "CONFIG")
    config = find_config(name) if name else None
    resumed = _resumed(arguments, config)
    for option, _ in given_options(arguments):
        if f"{option.replace('.init_args', '')}" in LINKED:
            raise ArgumentError(None, f"--{option} cannot be chosen: the data decide it")
    parser = train_parser(config)
    tree = _settings_of(resumed) if resumed else read_yaml(config) if config and config.is_file() else {}
    settings = parse(parser, arguments, tree, resumed or config, check)
    import torch

    from unmask.training import dry_run, train

    torch.manual_seed(settings.seed)
    try:
        made = instantiate(parser, settings)
    except ValueError as error:
        if resumed is None:
            raise
        raise ValueError(f"cannot resume on other data or settings than {resumed / RUN} names: {error}") from None
    chosen: dict[str, Any] = {name: made[name] for name in ("objective", "optimizer", "trainer")}
    chosen["run"] = Run(**{field.name: settings[field.name] for field in fields(Run)})
    if settings.dry_run:
        print(dry_run(made.network, made.data, **chosen))
        return
    train(made.network, made.data, **chosen, resume=settings.resume, overwrite=settings.overwrite)


def train_parser(config: Path | None) -> Parser:
    """Return the parser of all fields of an experiment."""
    parser = Parser(
        "train",
        description="Train a model. CONFIG is a shipped name or a YAML file or, with --resume, the folder of a run; "
        "every field of it can be overridden. --help-all lists all fields, --network.help UNet those of a class.",
        epilog="Example: unmask train digits --objective ContinuousELBO --objective.schedule Cosine "
        "--network.width 192 --trainer.max_steps 2000 --out runs/cosine",
    )
    parser.hidden = tuple(f"{group}." for group in GROUPS)
    parser.add_argument("config", metavar="CONFIG", help=f"one of {', '.join(shipped())}; or a YAML file")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of this run, exactly")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that is in the way")
    parser.add_argument("--dry-run", action="store_true", help="say what it would take, and write nothing")
    parser.add_class_arguments(Run, default={"out": f"runs/{config.stem}"} if config else None)
    for name, cls in GROUPS.items():
        parser.add_class_arguments(cls, name)
    parser.choose("data", "what is learned", required=True)
    parser.choose("network", "what learns it", required=True)
    parser.choose("objective", "what is minimised", default={"class_path": "TimeFreeELBO"})
    parser.links = {target: ("data", find) for target, find in LINKS.items()}
    return parser


def check(settings: Namespace) -> None:
    """Raise a ValueError for a value out of range, before anything is loaded."""
    Run(**{field.name: settings[field.name] for field in fields(Run)})
    for name, cls in GROUPS.items():
        cls(**settings[name].as_dict())
    follows = any(os.environ.get(name, "0") != "0" for name in RANKS)  # another process looks after the folder
    if Path(settings.out, RUN).is_file() and not (settings.resume or settings.overwrite or settings.dry_run or follows):
        raise ValueError(f"{settings.out} holds a run: give --resume, --overwrite, or another --out")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the settings of a YAML file.

    Raises:
        ArgumentError: it is no YAML, too large, holds no settings, or asks for what only a command line can ask for.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"larger than {MOST_BYTES:,} bytes: no file of settings")
        tree = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
        if not isinstance(tree, dict) or not all(isinstance(name, str) for name in tree):
            raise ValueError("expected settings by name, such as `seed: 0`")
        _count(tree, MOST_VALUES)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ArgumentError(None, f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    for name in COMMAND_LINE:
        if name in tree:
            raise ArgumentError(None, f"{path}: {name} is for the command line, not for a file")
    return tree


def _count(tree: Any, left: int) -> int:
    """Count down for each value in a tree; aliases can make a small file a huge one."""
    if left <= 0:
        raise ValueError(f"more than {MOST_VALUES:,} values")
    for part in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        left = _count(part, left - 1)
    return left


def _resumed(arguments: list[str], config: Path | None) -> Path | None:
    """Return the folder of the run that --resume is to go on with: its settings are the defaults then."""
    if config is not None and config.is_dir() and "--resume" not in arguments:
        raise ArgumentError(None, f"{config} is the folder of a run: give --resume to go on with it")
    if config is None or "--resume" not in arguments:
        return None
    out = str(config) if config.is_dir() else f"runs/{config.stem}"
    out = next((value or out for name, value in reversed([*given_options(arguments)]) if name == "out"), out)
    return Path(out) if Path(out, RUN).is_file() else None


def _settings_of(folder: Path) -> dict[str, Any]:
    """Return the settings that a run was started with, as they would stand in a file."""
    from unmask.training.run import read_record

    record = read_record(folder)
    tree: dict[str, Any] = {**record["run"], "out": str(folder)}
    tree |= {group: {name: value for name, value in record[group].items() if name != "class"} for group in GROUPS}
    return tree | {name: as_setting(record[name], LINKED, f"{name}.") for name in ("data", "network", "objective")}
