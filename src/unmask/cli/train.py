"""unmask train CONFIG: train a model, or go on with a run that was cut off."""

from __future__ import annotations

import os
from argparse import ArgumentError
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from unmask.cli.common import Option, Parser, first, instantiate, parse
from unmask.configs import find_config, shipped
from unmask.configs.reading import read_yaml
from unmask.storage.folders import CHECKPOINT, RUN
from unmask.storage.names import given_options
from unmask.storage.restarts import how_to_begin
from unmask.storage.settings import run_settings
from unmask.training.settings import Optimizer, Run, TrainerSettings

LINKED = ("network.vocab_size", "network.shape", "network.classes", "objective.schedule.vocab_size")
COMMAND_LINE = ("config", "resume", "overwrite", "dry-run", "dry_run", "import", "from", "mirror")
"""What a file cannot ask for."""
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
"""What tells a process of several that it is not the first."""
GROUPS = {"optimizer": Optimizer, "trainer": TrainerSettings}
LINKS: dict[str, Callable[[Any], Any]] = {
    "network.init_args.vocab_size": lambda data: data.codec.vocab_size,
    "objective.init_args.schedule.init_args.vocab_size": lambda data: data.codec.vocab_size,
    "network.init_args.shape": lambda data: data.shape,
    "network.init_args.classes": lambda data: data.classes,
}
"""What the data decide, and how."""
START: tuple[Option, ...] = (
    ("from", str, None, "a model whose weights are trained further: a folder, a run, or a name on the Hub"),
    ("network.dropout", float, None, "with --from: probability of dropping entries, for networks that have it"),
    ("network.checkpointing", bool | None, None, "with --from: save memory, for time; so is the next, of Pretrained"),
    ("network.gradient_checkpointing", bool | None, None, "see --network.checkpointing"),
)


PLANNED: tuple[Option, ...] = (
    ("devices", int | None, None, "with --dry-run: by formula, for so many devices of all nodes together"),
    ("nodes", int, 1, "with --dry-run --devices: machines"),
    ("gpu", str, "H100", "with --dry-run --devices: what a device is, such as A100"),
)


def run(arguments: list[str]) -> None:
    """Run `unmask train`."""
    arguments = ["--optimizer.kind" + a[11:] if a.partition("=")[0] == "--optimizer" else a for a in arguments]
    name = first(arguments, "CONFIG")
    config = find_config(name) if name else None
    arguments, resumed = _resumed(arguments, config)
    for option, _ in given_options(arguments):
        if f"{option.replace('.init_args', '')}" in LINKED:
            raise ArgumentError(None, f"--{option} cannot be chosen: the data decide it")
    tree = run_settings(resumed, LINKED) if resumed else {}
    if config and config.is_file() and not resumed:
        tree = read_yaml(config, (*COMMAND_LINE, *(name for name, *_ in PLANNED)))
    begun = _begun(arguments, tree)
    parser = train_parser(config, begun)
    settings = parse(parser, arguments, tree, resumed or config, check)
    import torch

    from unmask.training import weightless

    torch.manual_seed(settings.seed)
    elsewhere = settings.dry_run and settings.devices is not None
    try:
        with weightless(elsewhere):
            made = instantiate(parser, settings)
    except ValueError as error:
        if resumed is None:
            raise
        raise ValueError(f"cannot resume on other data or settings than {resumed / RUN} names: {error}") from None
    from unmask.training import dry_run, train

    chosen: dict[str, Any] = {name: made[name] for name in ("objective", "optimizer", "trainer")}
    network = made.get("network")
    if begun:
        given = {option.partition(".")[2]: settings[option] for option, *_ in START[1:]}
        network = {name: value for name, value in given.items() if value is not None}
        chosen["start"] = settings["from"] or tree["from"]
    chosen["run"] = Run(**{field.name: settings[field.name] for field in fields(Run)})
    if settings.dry_run:
        from unmask.training import Cluster

        how = "ddp" if settings.trainer.strategy == "auto" else settings.trainer.strategy
        on = Cluster(settings.devices, settings.nodes, settings.gpu, how) if elsewhere else None
        print(dry_run(network, made.data, **chosen, on=on))
        return
    train(network, made.data, **chosen, resume=settings.resume, overwrite=settings.overwrite)


def _begun(arguments: list[str], tree: dict[str, Any]) -> bool:
    """Return whether weights are trained further; the settings then leave out the network, which comes with them."""
    options = [name for name, _ in given_options(arguments)]
    if "from" not in options and not tree.get("from"):
        return False
    known = [name for name, *_ in START]
    for option in options:
        if option.partition(".")[0] == "network" and option not in known:
            raise ArgumentError(None, f"--{option} cannot be chosen: the network comes with --from")
    tree.pop("network", None)
    (tree.get("objective", {}).get("init_args") or {}).pop("schedule", None)
    return True


def train_parser(config: Path | None, begun: bool = False) -> Parser:
    """Return the parser of all fields of an experiment; without a network where weights are trained further."""
    parser = Parser(
        "train",
        description="Train a model. CONFIG is a shipped name, a YAML file or, with --resume, a run's folder. "
        "--help-all lists all fields, with the library's defaults, not CONFIG's; --network.help UNet those of a class.",
        epilog="Example: unmask train digits --objective ContinuousELBO --objective.schedule Cosine "
        "--network.width 192 --trainer.max_steps 2000 --out runs/cosine; unmask train textfile --data.path my.txt "
        "--from models/start --lora 8",
    )
    parser.hidden = (*GROUPS, "network.", "lora_", "peer_timeout", "workers", "evaluate_examples", "label_dropout")
    parser.hidden += ("mirror", *(name for name, *_ in PLANNED))
    parser.add_argument("config", metavar="CONFIG", help=f"one of {', '.join(shipped())}; or a YAML file")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of this run, exactly")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that is in the way")
    parser.add_argument("--dry-run", action="store_true", help="say what it would take, and write nothing")
    parser.add_class_arguments(Run, default={"out": f"runs/{config.stem}"} if config else None)
    for name, cls in GROUPS.items():
        parser.add_class_arguments(cls, name)
    parser.add_options(*PLANNED)
    parser.choose("data", "what is learned", required=True)
    parser.add_options(*(START if begun else START[:1]))
    if not begun:
        parser.choose("network", "what learns it", required=True)
    parser.choose("objective", "what is minimised", default={"class_path": "TimeFreeELBO"})
    if not begun:
        parser.links = {target: ("data", find) for target, find in LINKS.items()}
    return parser


def check(settings: Namespace) -> None:
    """Raise a ValueError for a value out of range, before anything is loaded."""
    Run(**{field.name: settings[field.name] for field in fields(Run)})
    for name, cls in GROUPS.items():
        cls(**settings[name].as_dict())
    checkpoint = Path(settings.out, CHECKPOINT)
    if settings.resume and not checkpoint.is_file():
        raise ValueError(f"nothing to resume: {checkpoint} does not exist; start again with --overwrite")
    follows = any(os.environ.get(name, "0") != "0" for name in RANKS)  # another process looks after the folder
    if Path(settings.out, RUN).is_file() and not (settings.resume or settings.overwrite or settings.dry_run or follows):
        raise ValueError(f"{settings.out} holds a run: give --resume, --overwrite, or another --out")


def _resumed(arguments: list[str], config: Path | None) -> tuple[list[str], Path | None]:
    """Return the folder of the run that --resume is to go on with: its settings are the defaults then.

    Also the arguments, with --resume or --overwrite where a scheduler has started the command again.
    """
    if config is not None and config.is_dir() and "--resume" not in arguments:
        raise ArgumentError(None, f"{config} is the folder of a run: give --resume to go on with it")
    if config is None:
        return arguments, None
    out = str(config) if config.is_dir() else f"runs/{config.stem}"
    out = next((value or out for name, value in reversed([*given_options(arguments)]) if name == "out"), out)
    flags = ("--resume", "--overwrite")
    begin = how_to_begin(out, *(flag in arguments for flag in flags))
    arguments = [one for one in arguments if one not in flags]
    arguments += [flag for flag, wanted in zip(flags, begin, strict=True) if wanted]
    return arguments, Path(out) if begin[0] and Path(out, RUN).is_file() else None
